"""The command line of the decoder itself, read without argparse: containerd starts it once per layer."""

from __future__ import annotations

from decoder import __version__
from decoder.errors import UsageError, quoted
from decoder.record import Record

USAGE = """\
usage: ctd-decoder [--decryption-keys-path DIR] [--keyprovider-config FILE]
                   [--release streaming|verified] [--content-store DIR | --require-payload]
       ctd-decoder image encrypt|decrypt|layerinfo|check --help
       ctd-decoder keyprovider run|serve --help
       ctd-decoder config containerd --help
       ctd-decoder doctor --help
       ctd-decoder agent --help

Decrypt one layer of an encrypted container image, as containerd's stream processor:
ciphertext on standard input, plaintext on standard output, payload (protobuf Any with
the layer's descriptor and keys) on descriptor 3.

  --decryption-keys-path DIR  look for private keys in DIR too; it need not exist
  --keyprovider-config FILE   configures keyproviders (default: $OCICRYPT_KEYPROVIDER_CONFIG)
  --release streaming         write plaintext as it comes, and the last 10 KiB only after
                              the HMAC over the whole layer was verified (default)
  --release verified          write nothing before that; the ciphertext waits in an
                              unlinked temporary file (in TMPDIR)
  --content-store DIR         if no payload comes, look for the layer's descriptor in the
                              content store below DIR, a root directory of containerd
                              (default: that of the containerd that started this program)
  --require-payload           do not look there: a payload must come
  --help, --version

Options may be written with one dash or two, and with a space or an equals sign.

exit status: 0 decrypted; 2 usage; 3 payload absent or malformed; 4 no key opens the
layer; 5 layer damaged or not authentic; 6 keyprovider failed; 7 input or output failed;
70 a defect of this program
"""

COMMANDS = {
    "image": "decoder.image.cli",
    "keyprovider": "decoder.provider.server.cli",
    "config": "decoder.node.cli",
    "doctor": "decoder.doctor",
    "agent": "decoder.agent.cli",
    "coco": "decoder.provider.services.coco.cli",
}
STREAMING = "streaming"
VERIFIED = "verified"
_WITH_VALUE = ("decryption-keys-path", "keyprovider-config", "release", "content-store")


class Arguments(Record):
    """What the command line asked for; `show` is a text to print instead of decrypting."""

    keys_directory: str = ""
    keyprovider_config: str = ""
    release: str = STREAMING
    content_store: str = ""
    require_payload: bool = False
    show: str = ""


def parse_arguments(arguments: list[str]) -> Arguments:
    """Read the command line, which may have Go's forms: one dash or two, `=` or a space.

    Raises:
        UsageError: an option is unknown or has no value, or there is something else than options.
    """
    values: dict[str, str] = {}
    require_payload = False
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument.strip("-") == "":
            raise UsageError(f"unexpected argument {quoted(argument)}{_nearest(argument)}; see ctd-decoder --help")
        name, equals, value = argument.lstrip("-").partition("=")
        if name in ("help", "h"):
            return Arguments(show=USAGE)
        if name in ("version", "v"):
            return Arguments(show=f"ctd-decoder {__version__}\n")
        if name == "require-payload" and not equals:
            require_payload = True
        elif name in _WITH_VALUE:
            values[name] = value if equals else next(rest, "-")
            if values[name].startswith("-"):
                raise UsageError(f"--{name} needs a value")
        else:
            raise UsageError(f"unknown option {quoted(argument)}{_nearest(f'--{name}')}; see ctd-decoder --help")
    release = values.get("release", STREAMING)
    if release not in (STREAMING, VERIFIED):
        raise UsageError(f"--release is {STREAMING} or {VERIFIED}, not {quoted(release)}")
    return Arguments(
        keys_directory=values.get("decryption-keys-path", ""),
        keyprovider_config=values.get("keyprovider-config", ""),
        release=release,
        content_store=values.get("content-store", ""),
        require_payload=require_payload,
    )


def _nearest(word: str) -> str:
    from decoder.commandline import nearest

    options = (*_WITH_VALUE, "require-payload", "help", "version")
    return nearest(word, (*COMMANDS, *(f"--{name}" for name in options)))
