"""Calls into a PKCS#11 module; only the child process makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pkcs11
from pkcs11 import Attribute, Mechanism, ObjectClass, TokenFlag

from decoder import limits
from decoder.errors import quoted
from decoder.formats import wire
from decoder.keywrap.pkcs11.oaep import unpad

if TYPE_CHECKING:
    from pkcs11 import _pkcs11

    from decoder.keywrap.pkcs11.request import Reply, Request

_OAEP = {
    "sha1": (Mechanism.SHA_1, pkcs11.MGF.SHA1, None),
    "sha256": (Mechanism.SHA256, pkcs11.MGF.SHA256, None),
}
# Errors that a wrong ciphertext causes; all others concern the token itself.
_UNFIT = (
    ValueError,
    pkcs11.ArgumentsBad,
    pkcs11.DataInvalid,
    pkcs11.DataLenRange,
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
    pkcs11.FunctionFailed,
    pkcs11.GeneralError,
)


class _RefusedError(Exception):
    """The token cannot perform the request; `wrong_pin_at` identifies the token if it refused the PIN."""

    def __init__(self, reason: str, wrong_pin_at: str | None = None) -> None:
        super().__init__(reason)
        self.wrong_pin_at = wrong_pin_at


def answer(request: Request) -> Reply:
    """Perform a request: decrypt its blobs, sign, find the key, or read the public key."""
    work = _decrypt if request["blobs"] else _find if request["finds"] else _public_key
    work = _sign if request["signs"] else work
    try:
        return work(request, _find_token(_load(request["module"]), request["token"]))
    except _RefusedError as error:
        return {"refused": str(error), "wrong_pin_at": error.wrong_pin_at}
    except pkcs11.PKCS11Error as error:
        return {"refused": f"the token failed ({type(error).__name__})"}


def _load(module: str) -> _pkcs11.lib:
    try:
        return pkcs11.lib(module)
    except pkcs11.PKCS11Error as error:
        text = str(error) or type(error).__name__
        raise _RefusedError(f"the module {quoted(module)} cannot be loaded: {quoted(text)}") from error


def _find_token(module: _pkcs11.lib, wanted: dict[str, str]) -> pkcs11.Token:
    """Return the only token that fits the URI, because a PIN must not be tried on any other."""
    tokens = [token for token in _tokens(module) if _fits(token, wanted)]
    shown = quoted(", ".join(f"{name}={value}" for name, value in wanted.items()))
    if not tokens:
        raise _RefusedError(f"there is no token with {shown}" if wanted else "there is no token")
    if len(tokens) > 1:
        raise _RefusedError(f"{len(tokens)} tokens fit its URI: it must name one by token, serial or slot-id")
    return tokens[0]


def _tokens(module: _pkcs11.lib) -> Iterator[pkcs11.Token]:
    for slot in module.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except pkcs11.PKCS11Error:
            continue  # the token was removed meanwhile, or is not recognized
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            yield token


def _fits(token: pkcs11.Token, wanted: dict[str, str]) -> bool:
    actual = {
        "token": token.label,
        "manufacturer": token.manufacturer_id,
        "serial": token.serial.decode(errors="replace"),
        "model": token.model,
        "slot-id": str(token.slot.slot_id),
        "slot-description": token.slot.slot_description,
        "slot-manufacturer": token.slot.manufacturer_id,
    }
    if "slot-id" in wanted:
        wanted = {**wanted, "slot-id": str(int(wanted["slot-id"]))}
    return all(actual[name].rstrip() == value.rstrip() for name, value in wanted.items())


def _decrypt(request: Request, token: pkcs11.Token) -> Reply:
    """Try every key that matches the URI on every blob of its size."""
    reason = "no recipient has a key of this size"
    blobs = [(hash_name, wire.decode_base64(blob)) for hash_name, blob in request["blobs"]]
    with _log_in(token, request) as session:
        for key in _find_keys(session, request, ObjectClass.PRIVATE_KEY):
            if not isinstance(key, pkcs11.DecryptMixin):
                reason = "the key on the token is not one for decryption"
                continue
            size = len(_attribute(key, Attribute.MODULUS, b"").lstrip(b"\0"))
            for hash_name, blob in blobs:
                if size in (0, len(blob)):
                    try:
                        opened = _decrypt_blob(key, blob, hash_name, request["pin"])
                    except _UNFIT:
                        reason = "it does not open this wrapped key"  # one reason for every wrong padding
                    else:
                        return {"opened": wire.encode_base64(opened)}
    raise _RefusedError(reason)


def _decrypt_blob(key: Any, blob: bytes, hash_name: str, pin: str | None) -> bytes:
    """Decrypt RSA-OAEP on the token. If it refuses the parameters, as SoftHSM does for SHA-256, unpad here."""
    always = _attribute(key, Attribute.ALWAYS_AUTHENTICATE, False)
    how: dict[str, Any] = {"pin": pin} if always else {}
    try:
        return bytes(key.decrypt(blob, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=_OAEP[hash_name], **how))
    except pkcs11.ArgumentsBad:
        raw = bytes(key.decrypt(blob, mechanism=Mechanism.RSA_X_509, **how))
        return unpad(raw.rjust(len(blob), b"\0"), hash_name)


def _sign(request: Request, token: pkcs11.Token) -> Reply:
    """Sign with the only private key that fits the URI: PKCS #1 v1.5 with SHA-256, which every token can do."""
    with _log_in(token, request) as session:
        keys = _find_keys(session, request, ObjectClass.PRIVATE_KEY)
        if len(keys) > 1:
            raise _RefusedError(f"{len(keys)} private keys on the token fit its URI")
        (key,) = keys
        if not isinstance(key, pkcs11.SignMixin):
            raise _RefusedError("the key on the token is not one for signatures")
        how: dict[str, Any] = {"pin": request["pin"]} if _attribute(key, Attribute.ALWAYS_AUTHENTICATE, False) else {}
        signature = key.sign(wire.decode_base64(request["signs"]), mechanism=Mechanism.SHA256_RSA_PKCS, **how)
        return {"signature": wire.encode_base64(bytes(signature))}


def _find(request: Request, token: pkcs11.Token) -> Reply:
    """Find the public key without a login, or else the private key with one."""
    with token.open() as session:
        if _find_objects(session, request, ObjectClass.PUBLIC_KEY):
            return {"with_pin": False}
    with _log_in(token, request) as session:
        _find_keys(session, request, ObjectClass.PRIVATE_KEY)
    return {"with_pin": True}


def _public_key(request: Request, token: pkcs11.Token) -> Reply:
    """Read the public key that matches the URI; tokens usually show it without a login."""
    with token.open() as session:
        numbers = _public_numbers(session, request)
    if not numbers and request["pin"] is not None:
        with _log_in(token, request) as session:
            numbers = _public_numbers(session, request)
    if not numbers:
        raise _no_key(token, request, ObjectClass.PUBLIC_KEY)
    if len(numbers) > 1:
        raise _RefusedError(f"{len(numbers)} public keys on the token fit its URI")
    return numbers.popitem()[1]


def _public_numbers(session: pkcs11.Session, request: Request) -> dict[str, Reply]:
    """Return modulus, exponent, and whether the token supports OAEP with SHA-256, for each public key by modulus."""
    found: dict[str, Reply] = {}
    for key in _find_objects(session, request, ObjectClass.PUBLIC_KEY):
        modulus = key[Attribute.MODULUS].hex()
        exponent = key[Attribute.PUBLIC_EXPONENT].hex()
        found[modulus] = {"modulus": modulus, "exponent": exponent, "sha256": _does_sha256(key)}
    return found


def _does_sha256(key: pkcs11.Object) -> bool:
    if not isinstance(key, pkcs11.EncryptMixin):
        return False
    try:
        key.encrypt(b"\0", mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=_OAEP["sha256"])
    except pkcs11.PKCS11Error:
        return False
    return True


def _log_in(token: pkcs11.Token, request: Request) -> pkcs11.Session:
    """Log in with the PIN, unless this token has refused it before, or a wrong PIN would lock the token."""
    name = quoted(token.label)
    identity = json.dumps([token.manufacturer_id, token.model, token.serial.hex(), token.label])
    if identity in request["wrong_pin_at"]:
        raise _RefusedError(f"the token {name} has refused this PIN before; it was not tried again")
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise _RefusedError(f"the token {name} is locked: a wrong PIN was tried too often")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise _RefusedError(
            f"one more wrong PIN would lock the token {name}, so none was tried: log in by hand, which resets the count"
        )
    if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
        raise _RefusedError(f"the token {name} has no user PIN set")
    try:
        return token.open(user_pin=request["pin"])
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange) as error:
        raise _RefusedError(f"the PIN is wrong for the token {name}", identity) from error
    except pkcs11.PinLocked as error:
        raise _RefusedError(f"the token {name} is locked: a wrong PIN was tried too often") from error


def _find_keys(session: pkcs11.Session, request: Request, kind: ObjectClass) -> list[pkcs11.Object]:
    keys = _find_objects(session, request, kind)
    if not keys:
        raise _no_key(session.token, request, kind)
    return keys


def _find_objects(session: pkcs11.Session, request: Request, kind: ObjectClass) -> list[pkcs11.Object]:
    """Return at most PKCS11_OBJECTS RSA keys. The search is completed, because it blocks the session until then."""
    wanted: dict[Attribute, object] = {
        Attribute.CLASS: kind,
        Attribute.KEY_TYPE: pkcs11.KeyType.RSA,
    }
    if request["label"] is not None:
        wanted[Attribute.LABEL] = request["label"]
    if request["key_id"] is not None:
        wanted[Attribute.ID] = wire.decode_base64(request["key_id"])
    return list(session.get_objects(wanted))[: limits.PKCS11_OBJECTS]


def _no_key(token: pkcs11.Token, request: Request, kind: ObjectClass) -> _RefusedError:
    half = "private" if kind == ObjectClass.PRIVATE_KEY else "public"
    label, key_id = request["label"], request["key_id"]
    labelled = "" if label is None else f" labelled {quoted(label)}"
    with_id = "" if key_id is None else f" with id {wire.decode_base64(key_id).hex()}"
    return _RefusedError(f"the token {quoted(token.label)} has no {half} RSA key{labelled}{with_id}")


def _attribute(key: pkcs11.Object, attribute: Attribute, default: Any) -> Any:
    try:
        return key[attribute]
    except pkcs11.PKCS11Error:
        return default
