"""The options that verbs share, and the parsing of their values."""

from __future__ import annotations

from argparse import SUPPRESS
from functools import cache
from typing import TYPE_CHECKING

from decoder.commandline import split_credentials
from decoder.errors import UsageError
from decoder.image import progress as progresses
from decoder.image import selection, transport
from decoder.image.cli import words
from decoder.image.openers import read_key, read_keys
from decoder.image.recipients import Keyring, Recipients, Wrapping
from decoder.keywrap.recipient import RecipientRules

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable
    from contextlib import ExitStack

    from decoder.grants.sealing import Sealing
    from decoder.image.names import Recipient
    from decoder.image.progress import Progress
    from decoder.image.selection import LayerRange
    from decoder.keys.keyring import DecryptConfig

PLACE = "the image, such as oci:DIR or docker://HOST/REPO:TAG"


def add_destination(parser: ArgumentParser) -> None:
    """Add the destination, which is the source with --in-place."""
    add = parser.add_argument
    add("destination", metavar="DST", nargs="?", default="", help="the new image; `-` as FILE is standard output")
    add("--in-place", action="store_true", help="write to SRC")
    add("--digestfile", default="", metavar="FILE", help="write the digest of the new image to FILE")
    add("--no-verify", dest="verify", action="store_false", help="do not read back what was written")


def add_selection(parser: ArgumentParser) -> None:
    """Add the choice of layers."""
    text = "0 is the lowest, -1 the top; 0-2, -2.. and ..1 are ranges; several with commas (default: all)"
    parser.add_argument("--layer", action="append", default=[], metavar="N", help=text)


def add_recipients(parser: ArgumentParser) -> None:
    """Add the options for recipients."""
    add = parser.add_argument
    text = (
        "jwe:FILE, pkcs7:FILE, pgp:EMAIL|KEYID|FINGERPRINT, pkcs11:FILE or provider:NAME[:PARAM]; without PROTOCOL, a "
        "FILE is recognized by its content, and an EMAIL is for pgp; may be repeated"
    )
    add("--recipient", action="append", default=[], metavar="[PROTOCOL:]VALUE", help=text)
    text = "remove from an encrypted image: a scheme, or scheme:name as layerinfo prints it; may be repeated"
    add("--remove-recipient", action="append", default=[], metavar="SCHEME[:NAME]", help=text)
    add("--all-keys", action="store_true", help="encrypt to every key and certificate in a recipient's file")
    add("--allow-weak-keys", action="store_true", help="encrypt to RSA keys from 1024 bits (default: from 2048)")
    text = "encrypt to certificates that are expired, not yet valid, or not for key encipherment"
    add("--allow-expired", action="store_true", help=text)
    rings = parser.add_mutually_exclusive_group()
    rings.add_argument("--gpg-homedir", default="", metavar="DIR", help="the GnuPG home with the keys for pgp:")
    rings.add_argument("--gpg-keyring", default="", metavar="FILE", help="a file with the keys for pgp:")
    text = "for provider: new: wrap one key for all layers of the image; old: wrap each layer's options (default: new)"
    add("--packet-format", default="", choices=("new", "old"), help=text)
    add("--kbs", default="", metavar="URL", help="for provider:attestation-agent: register the keys at this key broker")
    add("--kbs-auth-key", default="", metavar="FILE", help="the broker administrator's private key, Ed25519 or P-256")
    add("--kbs-admin-token-file", default="", metavar="FILE", help="a ready-made token of the administrator instead")
    text = "a claim of the administrator's token (iss=ctd-decoder sub=admin aud=KBS role=admin); may be repeated"
    add("--kbs-claim", action="append", default=[], metavar="NAME=VALUE", help=text)
    add("--kbs-ca", default="", metavar="FILE", help="CA certificates for the key broker (default: the system's)")
    text = "for provider:grants: the public key of somebody who may grant nodes access; may be repeated"
    add("--grants-owner", action="append", default=[], metavar="FILE", help=text)
    text = "for provider:grants: the publisher's private key, which signs the image's key for the owners"
    add("--sign-key", default="", metavar="FILE", help=text)
    add("--gpg-version", help=SUPPRESS)  # ctr-enc has it; every version exports alike


def add_keys(parser: ArgumentParser) -> None:
    """Add the keys that open layers."""
    add = parser.add_argument
    text = (
        "a key that opens layers: FILE[:PASSWORD|:pass=PASSWORD|:file=FILE|:fd=N] or provider:NAME[:PARAM]; FILE may "
        "be a pipe; may be repeated"
    )
    add("--key", action="append", default=[], metavar="KEY", help=text)
    text = "the file with the certificate of a key, for PKCS#7; may be repeated"
    add("--dec-recipient", action="append", default=[], metavar="CERT", help=text)
    text = "the configuration of keyproviders (default: $OCICRYPT_KEYPROVIDER_CONFIG)"
    add("--keyprovider-config", default="", metavar="FILE", help=text)


def add_platform(parser: ArgumentParser) -> None:
    """Add the choice of platforms."""
    add = parser.add_argument
    text = "os/arch[/variant] (default: all); may be repeated"
    add("--platform", action="append", default=[], metavar="PLATFORM", help=text)
    add("--all-platforms", action="store_true", help="all platforms, which is the default")


def add_common(parser: ArgumentParser) -> None:
    """Add the options for output, progress and transports."""
    add = parser.add_argument
    add("--json", action="store_true", help="print the result as JSON")
    text = "the progress on standard error: auto, plain, json (one line for each event) or none"
    add("--progress", choices=progresses.MODES, default=progresses.AUTO, metavar="MODE", help=text)
    text = "false: accept any certificate of a registry, and plain HTTP"
    add("--tls-verify", type=_truth, nargs="?", const=True, default=True, metavar="true|false", help=text)
    add("--creds", default="", metavar="USER:PASSWORD", help="the login at registries (default: that of docker login)")
    add("--authfile", default="", metavar="FILE", help="the file where `skopeo login` and others store logins")
    defaults = transport.Options()
    add("--namespace", default=defaults.namespace, help="containerd's namespace (default: %(default)s)")
    add("--address", default=defaults.address, help="containerd's socket (default: %(default)s)")


def source(stack: ExitStack, parsed: Namespace, reference: str) -> transport.ImageSource:
    """Open an image for reading."""
    return stack.enter_context(transport.open_source(reference, transport_options(parsed)))


def target(stack: ExitStack, parsed: Namespace) -> transport.ImageTarget:
    """Open the destination for writing."""
    options = transport_options(parsed)._replace(source=parsed.source)
    return stack.enter_context(transport.open_target(destination(parsed), options))


def destination(parsed: Namespace) -> str:
    """Return the destination.

    Raises:
        UsageError: there is none, or there are two.
    """
    if parsed.in_place and parsed.destination:
        raise UsageError("--in-place writes to SRC, so DST must not be given")
    if not parsed.in_place and not parsed.destination:
        raise UsageError("no destination was given: pass DST, or --in-place to replace SRC")
    return str(parsed.destination or parsed.source)


def transport_options(parsed: Namespace) -> transport.Options:
    """Collect the options for transports.

    Raises:
        UsageError: --creds is malformed.
    """
    login = split_credentials(parsed.creds)
    return transport.Options(parsed.tls_verify, parsed.namespace, parsed.address, login=login, authfile=parsed.authfile)


def ranges(parsed: Namespace) -> list[LayerRange]:
    """Parse --layer."""
    return [selection.parse_range(part) for text in parsed.layer for part in text.split(",")]


def platforms(parsed: Namespace) -> list[str]:
    """Parse --platform.

    Raises:
        UsageError: it is malformed, or --all-platforms was given too.
    """
    if parsed.platform and parsed.all_platforms:
        raise UsageError("--platform and --all-platforms exclude each other")
    return selection.parse_platforms(parsed.platform)


def keys(parsed: Namespace) -> DecryptConfig | None:
    """Read --key and --dec-recipient; None without any key."""
    if not parsed.key:
        return None
    return read_keys(parsed.key, parsed.dec_recipient, parsed.keyprovider_config, _claimed(parsed))


def _claimed(parsed: Namespace) -> str:
    """Return the reference for the audit of keyprovider servers: one of a registry or containerd, but no local path."""
    images = getattr(parsed, "places", None) or [getattr(parsed, "destination", "") or parsed.source, parsed.source]
    return next((reference(text) for text in images if reference(text)), "")


def reference(image: str) -> str:
    """Return the reference in the name of an image in a registry or in containerd, "" for other images."""
    scheme, _, name = image.partition(":")
    return name.removeprefix("//") if scheme in ("docker", "containerd") else ""


def required_keys(parsed: Namespace) -> DecryptConfig:
    """Read --key and --dec-recipient.

    Raises:
        UsageError: no key was given.
    """
    found = keys(parsed)
    if found is None:
        raise UsageError("no key was given: pass --key FILE or --key provider:NAME")
    return found


def recipients(parsed: Namespace, progress: Progress) -> Recipients:
    """Read the recipients; remark on each that was given without a protocol, with the protocol that is used."""
    read = cache(read_key)  # a pipe can be read once
    texts = []
    for text in parsed.recipient:
        recipient, said = words.with_protocol(text, read)
        texts.append(recipient)
        if said:
            progress.remark(said)
    keyring = Keyring(parsed.gpg_homedir, parsed.gpg_keyring)
    rules = RecipientRules(keyring.read, parsed.allow_weak_keys, parsed.allow_expired, parsed.all_keys, read)
    sealing = _sealing(parsed, texts)
    wrapping = Wrapping(parsed.keyprovider_config, parsed.packet_format, _claimed(parsed))
    return Recipients(texts, rules, wrapping, _broker(parsed), sealing)


def removed(parsed: Namespace) -> Callable[[Recipient], bool] | None:
    """Return the test for recipients to remove; None without --remove-recipient.

    Raises:
        UsageError: there is no key for the layers.
    """
    if not parsed.remove_recipient:
        return None
    if not parsed.key:
        raise UsageError("--remove-recipient needs a --key that opens the layers, so that they do not become useless")
    from decoder.image.names import selector

    selectors = [selector(text) for text in parsed.remove_recipient]
    return lambda recipient: any(is_removed(recipient) for is_removed in selectors)


def check_named(parsed: Namespace) -> None:
    """Check that a recipient to add or to remove was given.

    Raises:
        UsageError: none was.
    """
    if not parsed.recipient and not parsed.remove_recipient:
        raise UsageError("no recipient was given: pass --recipient FILE or --recipient PROTOCOL:VALUE")


def _sealing(parsed: Namespace, recipients: list[str]) -> Sealing | None:
    """Build the provider for the recipient `provider:grants:HOST/REPO`; None if there is none.

    Raises:
        UsageError: an option is missing or cannot be combined, or a key cannot be used.
    """
    if not any(text.split(":")[:2] == ["provider", "grants"] for text in recipients):
        if parsed.grants_owner or parsed.sign_key:
            raise UsageError("--grants-owner and --sign-key are for a --recipient provider:grants:HOST/REPO")
        return None
    if parsed.packet_format == "old":
        raise UsageError("--packet-format old is not for provider:grants: it has one key for all layers of an image")
    from decoder.grants.artifacts import Access
    from decoder.grants.sealing import Sealing

    reached = transport_options(parsed)
    return Sealing(parsed.grants_owner, parsed.sign_key, Access(reached.tls_verify, reached.login, reached.authfile))


def _broker(parsed: Namespace) -> dict[str, object]:
    """Collect the options about a key broker, as options of the provider attestation-agent."""
    said = {
        "kbs": parsed.kbs,
        "kbs-auth-key": parsed.kbs_auth_key,
        "kbs-admin-token-file": parsed.kbs_admin_token_file,
        "kbs-ca": parsed.kbs_ca,
        "kbs-claim": parsed.kbs_claim,
    }
    return {name: value for name, value in said.items() if value}


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
