"""Facts about the node; each one is looked up once, when the first check needs it."""

from __future__ import annotations

import os
import subprocess
import tomllib
from functools import cached_property
from typing import NamedTuple, cast

from decoder import limits
from decoder.arguments import Arguments, parse_arguments
from decoder.doctor.discovery import Containerd, find_containerd
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.keys.directory import add_directory
from decoder.keys.file import read_key_file
from decoder.keys.keyring import Keyring
from decoder.node import process
from decoder.node.containerd.configuration import KEYPROVIDER_FILE, KEYPROVIDER_VARIABLE, KEYS_DIRECTORY, PROGRAM
from decoder.node.containerd.storeroot import DEFAULT_ROOT
from decoder.provider.client.config import ProviderConfig, parse_config
from decoder.provider.errors import ProviderError

Table = dict[str, object]

_ADDRESS = "/run/containerd/containerd.sock"
_OPT_PLUGIN = "io.containerd.internal.v1.opt"


class Source(NamedTuple):
    """Containerd's configuration.

    Attributes:
        in_file: the content of the file; {} if it does not exist.
        in_force: the configuration that containerd reports, or the file's content if containerd cannot report it.
        failure: the reason why the file cannot be read, or "".
        dump_failure: the reason why containerd cannot report its configuration, or "".
        is_absent: whether the file does not exist.
    """

    in_file: Table
    in_force: Table
    failure: str = ""
    dump_failure: str = ""
    is_absent: bool = False


class Processor(NamedTuple):
    """A stream processor for encrypted layers.

    Attributes:
        table: its section of the configuration.
        arguments: its command line, parsed; the defaults if it cannot be parsed.
        failure: the reason why the command line cannot be parsed, or "".
    """

    table: Table
    arguments: Arguments
    failure: str

    @property
    def program(self) -> str:
        """The program that it starts: a path, or a name to find on containerd's PATH."""
        return str(self.table.get("path") or PROGRAM)

    @property
    def accepts(self) -> list[str]:
        """The media types that it accepts."""
        return texts(self.table, "accepts")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that it adds to containerd's environment."""
        return {
            name: value for name, equals, value in (text.partition("=") for text in texts(self.table, "env")) if equals
        }


class Host:
    """The node.

    Args:
        containerd_config: containerd's configuration file, or "" to find it.
        image: the name of the image to try, or "".
        namespace: containerd's namespace with that image, or "" for any.
    """

    def __init__(self, containerd_config: str = "", image: str = "", namespace: str = "") -> None:
        self.named_config = containerd_config
        self.image = image
        self.namespace = namespace

    @cached_property
    def containerd(self) -> Containerd:
        """Return the containerd of this node."""
        return find_containerd(self.named_config)

    @cached_property
    def version(self) -> tuple[tuple[int, ...], str]:
        """Return containerd's version as three numbers, () if unknown, and the output of `--version`."""
        if not self.containerd.program:
            return (), ""
        import re

        output, _ = run([self.containerd.program, "--version"])
        match = re.search(r"\sv?([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})", output)
        return tuple(int(number) for number in match.groups()) if match else (), output.strip()

    @cached_property
    def configuration(self) -> Source:
        """Return containerd's configuration."""
        in_file: Table = {}
        file = self.place(self.containerd.file)
        is_absent = False
        try:
            with open(file, "rb") as opened:
                in_file = tomllib.loads(opened.read(limits.CONFIGURATION_BYTES).decode())
        except FileNotFoundError:
            is_absent = True
        except OSError as error:
            return Source({}, {}, error.strerror or type(error).__name__)
        except (ValueError, RecursionError) as error:
            return Source({}, {}, f"it is not TOML: {error}")
        if not self.containerd.program:
            return Source(in_file, in_file, is_absent=is_absent)
        # `config dump` of containerd 1.x fails without a file, where containerd itself uses its defaults.
        command = ["config", "default"] if is_absent else ["--config", file, "config", "dump"]
        output, failure = run([self.containerd.program, *command])
        try:
            in_force = tomllib.loads(output) if not failure else in_file
        except (ValueError, RecursionError) as error:
            in_force, failure = in_file, str(error)
        return Source(in_file, in_force, dump_failure=failure, is_absent=is_absent)

    @cached_property
    def processors(self) -> dict[str, Processor]:
        """Return the stream processors for encrypted layers, by their IDs."""
        configured = table(self.configuration.in_force, "stream_processors")
        found = {}
        for name in configured:
            section, failure, arguments = table(configured, name), "", Arguments()
            try:
                arguments = parse_arguments(texts(section, "args"))
            except UsageError as error:
                failure = str(error)
            if any(text.endswith("+encrypted") for text in texts(section, "accepts")):
                found[name] = Processor(section, arguments, failure)
        return found

    @cached_property
    def keys_directories(self) -> list[str]:
        """Return the keys directories of the processors, or containerd's default one."""
        named = dict.fromkeys(each.arguments.keys_directory for each in self.processors.values())
        return [directory for directory in named if directory] or ([] if self.processors else [KEYS_DIRECTORY])

    @cached_property
    def keyprovider_files(self) -> dict[str, bool]:
        """Return the configurations of keyproviders, and whether each must exist because an option names it."""
        files: dict[str, bool] = {}
        for each in self.processors.values():
            by_option = each.arguments.keyprovider_config
            file = by_option or each.environment.get(KEYPROVIDER_VARIABLE, "")
            if file:
                files[file] = files.get(file, False) or bool(by_option)
        return files if self.processors else {KEYPROVIDER_FILE: False}

    @cached_property
    def keys(self) -> dict[str, Keyring]:
        """Return the keys in each keys directory."""
        found = {}
        for directory in self.keys_directories:
            found[directory] = Keyring()
            add_directory(found[directory], self.place(directory))
        return found

    @cached_property
    def keyproviders(self) -> dict[str, ProviderConfig | str]:
        """Return each existing keyprovider configuration: parsed, or the reason why it cannot be read."""
        found: dict[str, ProviderConfig | str] = {}
        for file in self.keyprovider_files:
            place = self.place(file)
            if os.path.lexists(place):
                try:
                    found[file] = parse_config(read_key_file(place))
                except (KeyFileError, ProviderError) as error:
                    found[file] = str(error)
        return found

    @cached_property
    def path(self) -> str:
        """Return the PATH that containerd searches for programs; its `opt` plugin adds a directory in front."""
        opt = table(table(self.configuration.in_force, "plugins"), _OPT_PLUGIN).get("path")
        is_disabled = _OPT_PLUGIN in texts(self.configuration.in_force, "disabled_plugins")
        before = [os.path.join(opt, "bin")] if isinstance(opt, str) and opt and not is_disabled else []
        return ":".join([*before, self.containerd.path])

    def environment_of(self, processor: Processor) -> dict[str, str]:
        """Return the environment that containerd gives a stream processor."""
        base = process.environment(self.containerd.pid) if self.containerd.pid else {}
        return {**base, "PATH": self.path, **processor.environment}

    @cached_property
    def root(self) -> str:
        """Return containerd's root directory."""
        configured = self.configuration.in_force.get("root")
        return self.containerd.root or (configured if isinstance(configured, str) and configured else DEFAULT_ROOT)

    @cached_property
    def address(self) -> str:
        """Return the socket of containerd's services."""
        configured = table(self.configuration.in_force, "grpc").get("address")
        return self.containerd.address or (configured if isinstance(configured, str) and configured else _ADDRESS)

    def place(self, path: str) -> str:
        """Return the path by which this process sees a file of containerd, which may have other mounts (rootless)."""
        return self.containerd.prefix + path if os.path.isabs(path) else path

    def programs(self) -> list[str]:
        """Return the programs that the processors start, each once."""
        return list(dict.fromkeys(each.program for each in self.processors.values())) or [PROGRAM]

    def find_program(self, name: str) -> tuple[str, str]:
        """Find a program as containerd's exec.LookPath does.

        Returns:
            Its path, or ""; and the relative entry of PATH where it was found, if any, because Go refuses to use those.
        """
        if "/" in name:
            place = self.place(name)
            return (name if os.access(place, os.X_OK) and os.path.isfile(place) else ""), ""
        for entry in self.path.split(os.pathsep):
            path = os.path.join(entry or ".", name)
            base = path if os.path.isabs(path) else os.path.join(self.containerd.directory, path)
            if os.path.isfile(self.place(base)) and os.access(self.place(base), os.X_OK):
                return path, "" if os.path.isabs(path) else (entry or ".")
        return "", ""


def run(command: list[str], environment: dict[str, str] | None = None) -> tuple[str, str]:
    """Run a program that only prints information, for DOCTOR_SECONDS at most.

    Returns:
        Its standard output, and the reason of its failure or "".
    """
    try:
        result = subprocess.run(  # noqa: S603 - containerd, or what containerd is configured to run
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limits.DOCTOR_SECONDS,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return "", f"it did not end within {limits.DOCTOR_SECONDS:.0f} seconds"
    except OSError as error:
        return "", error.strerror or type(error).__name__
    output, errors = (text.decode(errors="replace") for text in (result.stdout, result.stderr))
    return output, quoted(errors.strip() or f"exit status {result.returncode}") if result.returncode else ""


def table(value: Table, name: str) -> Table:
    """Return a table of a TOML document, or an empty one."""
    inner = value.get(name)
    return cast("Table", inner) if isinstance(inner, dict) else {}


def texts(value: Table, name: str) -> list[str]:
    """Return the strings in a list of a TOML document."""
    items = value.get(name)
    return [item for item in items if isinstance(item, str)] if isinstance(items, list) else []
