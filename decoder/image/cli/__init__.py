"""`ctd-decoder image encrypt|decrypt|layerinfo|check`: the command line, and what is printed."""

from __future__ import annotations

import json
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from contextlib import ExitStack
from typing import TYPE_CHECKING

from decoder.commandline import Parser, show
from decoder.errors import UsageError
from decoder.image import progress as progresses
from decoder.image import selection, transport
from decoder.image.openers import read_keys
from decoder.image.recipients import Keyring, Recipients

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.image.names import Recipient
    from decoder.image.progress import Progress
    from decoder.image.verbs.changes import Outcome
    from decoder.keys.keyring import DecryptConfig

_PROGRAM = "ctd-decoder image"
_DESCRIPTION = "Encrypt, decrypt and examine the layers of container images."
_PLACES = """\
images: oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:NAME] (to read),
docker://HOST[:PORT]/REPO[:TAG|@DIGEST], containerd:REF

registries: logins are those of docker, podman and skopeo: in the file of $REGISTRY_AUTH_FILE, or else in
$XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json or ~/.docker/config.json, the first that knows
the registry; certificates are the system's and those of certs.d/HOST[:PORT]/ (*.crt, and NAME.cert with NAME.key) in
~/.config/containers, /etc/containers or /etc/docker, the first that has that directory

layers: 0 is the lowest and -1 the top; 0-2, -2.. and ..1 are ranges

exit status: 0 done; 2 usage; 4 no key opens a layer; 5 a blob is damaged or not authentic;
6 keyprovider failed; 7 an image cannot be read or written; 70 a defect of this program
"""
_VALUES_WITH_DASH = ("--layer",)


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder image`.

    Args:
        arguments: those after `image`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood, or asks for what the image has not.
        DecoderError: it failed; nothing changed under the destination's name.
    """
    parser = _parser()
    parsed = parser.parse(_joined(arguments))
    if parsed is not None:
        parsed.run(parsed)
    return 0


def _encrypt(parsed: Namespace) -> None:
    from decoder.image.verbs import encrypt

    if not parsed.recipient and not parsed.remove_recipient:
        raise UsageError("no recipient was given: --recipient PROTOCOL:VALUE")
    if parsed.remove_recipient and not parsed.key:
        raise UsageError("--remove-recipient needs a --key that opens the layers, so that they do not become useless")
    keyring = Keyring(parsed.gpg_homedir, parsed.gpg_keyring)
    with ExitStack() as stack:
        base = _source(stack, parsed, parsed.skip_base) if parsed.skip_base else None
        request = encrypt.Request(
            recipients=Recipients(parsed.recipient, keyring, parsed.keyprovider_config, _broker(parsed)),
            ranges=[selection.parse_range(text) for text in parsed.layer],
            platforms=selection.parse_platforms(parsed.platform),
            base=base,
            keys=_required_keys(parsed) if parsed.key else None,
            removed=_removed(parsed.remove_recipient) if parsed.remove_recipient else None,
            verify=parsed.verify,
        )
        source, progress = _source(stack, parsed, parsed.source), stack.enter_context(progresses.choose(parsed.json))
        stack.callback(lambda: _warn(request.recipients.warnings, progress))
        target = stack.enter_context(transport.open_target(parsed.destination, _target_options(parsed)))
        outcome = encrypt.encrypt_image(source, target, request, progress)
        _warn(request.keys.keyring.notes.warnings if request.keys else [], progress)
    _tell(parsed, outcome, progress)


def _decrypt(parsed: Namespace) -> None:
    from decoder.image.verbs import decrypt

    request = decrypt.Request(
        keys=_required_keys(parsed),
        ranges=[selection.parse_range(text) for text in parsed.layer],
        platforms=selection.parse_platforms(parsed.platform),
        verify=parsed.verify,
    )
    with ExitStack() as stack:
        source, progress = _source(stack, parsed, parsed.source), stack.enter_context(progresses.choose(parsed.json))
        target = stack.enter_context(transport.open_target(parsed.destination, _target_options(parsed)))
        outcome = decrypt.decrypt_image(source, target, request, progress)
        _warn(request.keys.keyring.notes.warnings, progress)
    _tell(parsed, outcome, progress)


def _layerinfo(parsed: Namespace) -> None:
    from decoder.image.verbs import layerinfo

    keys = read_keys(parsed.key, parsed.dec_recipient, parsed.keyprovider_config)
    certificates = [material.data for material in keys.keyring.certificates]
    platforms = selection.parse_platforms(parsed.platform)
    with ExitStack() as stack:
        source = _source(stack, parsed, parsed.source)
        infos = layerinfo.layer_infos(source, platforms, certificates, keys if parsed.key else None)
    if parsed.json:
        show(json.dumps({"image": parsed.source, "layers": [info.for_programs() for info in infos]}) + "\n")
    else:
        show(layerinfo.table(infos, with_keys=bool(parsed.key)))


def _check(parsed: Namespace) -> None:
    from decoder.image.verbs import check

    keys = _required_keys(parsed)
    platforms = selection.parse_platforms(parsed.platform)
    with ExitStack() as stack:
        encrypted, layers = check.check_image(_source(stack, parsed, parsed.source), platforms, keys)
    if parsed.json:
        show(json.dumps({"image": parsed.source, "layers": layers, "encrypted": encrypted, "opens": True}) + "\n")
    else:
        show(f"all of {encrypted} encrypted layers open ({layers} layers)\n")


def _source(stack: ExitStack, parsed: Namespace, reference: str) -> transport.ImageSource:
    return stack.enter_context(transport.open_source(reference, _options(parsed)))


def _target_options(parsed: Namespace) -> transport.Options:
    return _options(parsed)._replace(mount_from=parsed.source)


def _options(parsed: Namespace) -> transport.Options:
    return transport.Options(parsed.tls_verify, parsed.namespace, parsed.address)


def _required_keys(parsed: Namespace) -> DecryptConfig:
    if not parsed.key:
        raise UsageError("no key was given: --key FILE or --key provider:NAME")
    return read_keys(parsed.key, parsed.dec_recipient, parsed.keyprovider_config)


def _broker(parsed: Namespace) -> dict[str, object]:
    """Collect what was said of a key broker, as options of the provider attestation-agent."""
    said = {
        "kbs": parsed.kbs,
        "kbs-auth-key": parsed.kbs_auth_key,
        "kbs-admin-token-file": parsed.kbs_admin_token_file,
        "kbs-ca": parsed.kbs_ca,
        "kbs-claim": parsed.kbs_claim,
    }
    return {name: value for name, value in said.items() if value}


def _removed(texts: list[str]) -> Callable[[Recipient], bool]:
    from decoder.image.names import selector

    selectors = [selector(text) for text in texts]
    return lambda recipient: any(is_removed(recipient) for is_removed in selectors)


def _warn(warnings: list[str], progress: Progress) -> None:
    for warning in warnings:
        progress.remark(f"warning: {warning}")


def _tell(parsed: Namespace, outcome: Outcome, progress: Progress) -> None:
    digest = outcome.descriptor["digest"]
    if parsed.json:
        changes = sorted(outcome.changes, key=lambda change: (change["platform"], change["layer"]))
        told = {"image": parsed.destination, "digest": digest, "layers": changes, "remarks": progress.remarks}
        show(json.dumps(told) + "\n")
    else:
        show(f"{parsed.destination} {digest}\n")


def _joined(arguments: list[str]) -> list[str]:
    """Join options with values that start with a dash: argparse would take `-2..` for an option."""
    joined: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        value = next(rest, None) if argument in _VALUES_WITH_DASH else None
        joined.append(argument if value is None else f"{argument}={value}")
    return joined


def _parser() -> Parser:
    parser = Parser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        epilog=_PLACES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Callable[[Namespace], None], text: str) -> ArgumentParser:
        added: ArgumentParser = verbs.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=_PLACES,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(run=run)
        added.add_argument("source", metavar="SRC", help="the image")
        return added

    encrypt = verb("encrypt", _encrypt, "write an image with its layers encrypted, or with other recipients")
    _add_destination(encrypt)
    _add_recipients(encrypt)
    _add_keys(encrypt)
    decrypt = verb("decrypt", _decrypt, "write an image with its layers decrypted")
    _add_destination(decrypt)
    _add_keys(decrypt)
    info = verb("layerinfo", _layerinfo, "list the layers of an image and who can open them")
    _add_keys(info)
    check = verb("check", _check, "tell by the exit status whether keys open every layer for a platform")
    _add_keys(check)
    for each, default in ((encrypt, "all"), (decrypt, "all"), (info, "all"), (check, "this machine's")):
        _add_common(each, default)
    return parser


def _add_destination(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("destination", metavar="DST", help="where to write it")
    add("--layer", action="append", default=[], metavar="N", help="which layers (default: all); may be repeated")
    add("--no-verify", dest="verify", action="store_false", help="do not read back what was written")


def _add_recipients(parser: ArgumentParser) -> None:
    add = parser.add_argument
    text = "jwe:FILE, pkcs7:FILE, pgp:EMAIL|KEYID|FINGERPRINT, pkcs11:FILE or provider:NAME[:PARAM]; may be repeated"
    add("--recipient", action="append", default=[], metavar="PROTOCOL:VALUE", help=text)
    text = "take out of an encrypted image: a scheme, or scheme:name as layerinfo prints it; may be repeated"
    add("--remove-recipient", action="append", default=[], metavar="SCHEME[:NAME]", help=text)
    add("--skip-base", default="", metavar="IMAGE", help="leave the layers of this base as they are")
    rings = parser.add_mutually_exclusive_group()
    rings.add_argument("--gpg-homedir", default="", metavar="DIR", help="the GnuPG home with the keys for pgp:")
    rings.add_argument("--gpg-keyring", default="", metavar="FILE", help="a file with the keys for pgp:")
    add("--kbs", default="", metavar="URL", help="for provider:attestation-agent: register the keys at this key broker")
    add("--kbs-auth-key", default="", metavar="FILE", help="its administrator's private key, Ed25519 or P-256 in PEM")
    add("--kbs-admin-token-file", default="", metavar="FILE", help="a ready-made token of its administrator, instead")
    text = "in the administrator's token (iss=ctd-decoder sub=admin aud=KBS role=admin); may be repeated"
    add("--kbs-claim", action="append", default=[], metavar="NAME=VALUE", help=text)
    add("--kbs-ca", default="", metavar="FILE", help="the certificates to accept of it instead of the system's")
    add("--gpg-version", help=SUPPRESS)  # ctr-enc has it; every version exports alike


def _add_keys(parser: ArgumentParser) -> None:
    add = parser.add_argument
    text = "opens layers: FILE[:pass=PASSWORD|:file=FILE|:fd=N] or provider:NAME[:PARAM]; may be repeated"
    add("--key", action="append", default=[], metavar="KEY", help=text)
    text = "the certificate of a key, for PKCS#7; may be repeated"
    add("--dec-recipient", action="append", default=[], metavar="CERT", help=text)
    text = "configures keyproviders (default: $OCICRYPT_KEYPROVIDER_CONFIG)"
    add("--keyprovider-config", default="", metavar="FILE", help=text)


def _add_common(parser: ArgumentParser, platforms: str) -> None:
    add = parser.add_argument
    text = f"os/arch[/variant] (default: {platforms}); may be repeated"
    add("--platform", action="append", default=[], metavar="PLATFORM", help=text)
    add("--json", action="store_true", help="print the result as JSON")
    text = "false: accept any certificate of a registry, and plain HTTP"
    add("--tls-verify", type=_truth, nargs="?", const=True, default=True, metavar="true|false", help=text)
    defaults = transport.Options()
    add("--namespace", default=defaults.namespace, help="of containerd (default: %(default)s)")
    add("--address", default=defaults.address, help="of containerd (default: %(default)s)")


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
