"""The command line of the decoder itself, parsed without argparse: containerd starts it once per layer."""

from __future__ import annotations

from decoder import __version__
from decoder.errors import UsageError, quoted
from decoder.record import Record

USAGE = """\
usage: ctd-decoder [--decryption-keys-path DIR] [--keyprovider-config FILE]
                   [--release streaming|verified]
                   [--content-store DIR] [--strict-lookup] [--require-payload]
                   [--no-agent]
       ctd-decoder image encrypt|decrypt|layerinfo|check|rewrap|keygen --help
       ctd-decoder keyprovider run|serve|attestation-agent --help
       ctd-decoder config containerd --help
       ctd-decoder doctor --help
       ctd-decoder agent status|stop --help
       ctd-decoder grants list|approve|deny|revoke|log|fingerprint|wrap-key|approver --help
       ctd-decoder coco initdata --help

Decrypt one layer of an encrypted container image, as containerd's stream processor:
ciphertext on standard input, plaintext on standard output, payload (protobuf Any with
the layer's descriptor and keys) on descriptor 3.

  --decryption-keys-path DIR  directory of private keys; it need not exist
  --keyprovider-config FILE   configuration of keyproviders (default: the file that
                              $OCICRYPT_KEYPROVIDER_CONFIG names)
  --release streaming         write plaintext as it is decrypted, and the last 10 KiB once the
                              HMAC of the whole layer has been verified (default)
  --release verified          write nothing before that; the ciphertext is kept in an unlinked
                              temporary file (in TMPDIR)
  --content-store DIR         containerd's root directory, whose content store is searched for
                              the layer's descriptor if no payload comes (default: the root of
                              the containerd that started this program)
  --strict-lookup             fail if an image in the content store names the layer without a
                              wrapped key of its own (default: warn in the journal); also
                              "strict-lookup": true in the configuration of keyproviders
  --require-payload           fail if no payload comes, instead of searching the content store
  --no-agent                  do not use the agent, which keeps processes ready for the next
                              layers, and do not start one (also: CTD_DECODER_AGENT=off, in
                              the environment or in /etc/ctd-decoder/agent.env)
  --help, --version

Options may be written with one dash or two, and with a space or an equals sign.

exit status: 0 decrypted; 2 usage; 3 payload absent or malformed; 4 no key opens the
layer; 5 layer damaged or not authentic; 6 keyprovider failed; 7 input or output failed;
8 too little memory, or no further thread; 70 a defect of this program
"""

COMMANDS = {
    "image": "decoder.image.cli",
    "images": "decoder.image.cli",  # the name of the command in ctr-enc
    "keyprovider": "decoder.provider.server.cli",
    "config": "decoder.node.containerd.cli",
    "doctor": "decoder.doctor",
    "agent": "decoder.agent.cli",
    "coco": "decoder.provider.services.coco.cli",
    "grants": "decoder.grants.cli",
}
STREAMING = "streaming"
VERIFIED = "verified"
_FLAGS = ("require-payload", "strict-lookup", "no-agent")  # only packaging/client, which runs first, heeds no-agent
_WITH_VALUE = ("decryption-keys-path", "keyprovider-config", "release", "content-store")


class Arguments(Record):
    """The options of the command line; if `show` is set, it is printed and no layer is decrypted."""

    keys_directory: str = ""
    keyprovider_config: str = ""
    release: str = STREAMING
    content_store: str = ""
    require_payload: bool = False
    strict_lookup: bool = False
    show: str = ""


def parse_arguments(arguments: list[str]) -> Arguments:
    """Parse the command line. Options have Go's forms: one dash or two, and a space or an equals sign.

    Raises:
        UsageError: an option is unknown or lacks its value, or a word is not an option.
    """
    values: dict[str, str] = {}
    flags = dict.fromkeys(_FLAGS, False)
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument.strip("-") == "":
            raise UsageError(f"unexpected argument {quoted(argument)}{_nearest(argument)}; see ctd-decoder --help")
        name, equals, value = argument.lstrip("-").partition("=")
        if name in ("help", "h"):
            return Arguments(show=USAGE)
        if name in ("version", "v"):
            return Arguments(show=f"ctd-decoder {__version__}\n")
        if name in flags and not equals:
            flags[name] = True
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
        require_payload=flags["require-payload"],
        strict_lookup=flags["strict-lookup"],
    )


def _nearest(word: str) -> str:
    from decoder.commandline import nearest

    options = (*_WITH_VALUE, *_FLAGS, "help", "version")
    return nearest(word, (*COMMANDS, *(f"--{name}" for name in options)))
