"""Deny rules: layers that this host must not decrypt, even if one of its keys opens them.

The keyprovider configuration has `"deny": [RULE, …]` beside its providers. A rule is a shell pattern for a scheme
(`provider.attestation-agent`, `provider.*`, `jwe`), `media-type:PATTERN`, or `kid:PATTERN` for the key that a
keyprovider's annotation names. The rules stop only honest images, because a registry can leave annotations out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from decoder import keywrap, limits
from decoder.errors import DeniedError, KeyFileError, quoted
from decoder.formats import wire
from decoder.keys.file import read_key_file
from decoder.layer.annotations import WrappedKey, wrapped_keys

_MEDIA_TYPE, _KEY_ID = "media-type", "kid"
_NAMES_OF_KEYS = ("kid", "key_url")


def check(config_file: str, media_type: str, annotations: Mapping[str, str]) -> None:
    """Check that no rule denies a layer.

    Args:
        config_file: the keyprovider configuration. If it is absent or malformed, its rules are unknown, so every layer
            is denied.
        media_type: the layer's media type.
        annotations: the annotations in the layer's descriptor.

    Raises:
        DeniedError: a rule denies the layer, or the configuration cannot be read.
        LayerError: the layer has more than WRAPPED_KEYS wrapped keys.
    """
    try:
        rules = _read_rules(read_key_file(config_file))
    except (KeyFileError, ValueError) as error:
        raise DeniedError(
            f"no layer is opened while the keyprovider configuration {quoted(config_file)}, which may hold deny rules, "
            f"cannot be read: {error}"
        ) from error
    if not rules:
        return
    items = wrapped_keys(annotations)
    subjects = {
        "": {item.scheme for item in items},
        _MEDIA_TYPE: {media_type},
        _KEY_ID: {key for item in items for key in _key_ids(item)},
    }
    for rule, kind, pattern in rules:
        if denied := sorted(subject for subject in subjects[kind] if fnmatchcase(subject, pattern)):
            raise DeniedError(
                f"this host does not decrypt this layer: its {kind or 'recipient'} {quoted(denied[0])} is denied by "
                f"the rule {quoted(rule)} in {quoted(config_file)}"
            )


def _read_rules(data: bytes) -> list[tuple[str, str, str]]:
    """Return the rules, each as its text, its kind and its pattern."""
    value = wire.parse_object(data)
    wire.object_value(wire.member(value, "key-providers"))
    rules = wire.list_value(wire.member(value, "deny"))
    if len(rules) > limits.DENY_RULES:
        raise ValueError(f"there are more than {limits.DENY_RULES}")
    return [(rule, *_parse_rule(rule)) for rule in map(wire.text_value, rules)]


def _parse_rule(rule: str) -> tuple[str, str]:
    kind, separator, pattern = rule.partition(":")
    if kind in (_MEDIA_TYPE, _KEY_ID) and pattern:
        return kind, pattern
    is_scheme = rule.startswith(keywrap.PROVIDER_PREFIX) or any(fnmatchcase(name, rule) for name in keywrap.SCHEMES)
    if separator or not is_scheme:
        forms = "a scheme (such as provider.NAME), media-type:PATTERN or kid:PATTERN"
        raise ValueError(f"{quoted(rule)} is not one of {forms}")
    return "", rule


def _key_ids(item: WrappedKey) -> Iterator[str]:
    """Yield every name that a provider may read as the key of a keyprovider's annotation, in all of its forms."""
    if not item.scheme.startswith(keywrap.PROVIDER_PREFIX):
        return
    try:
        members = wire.parse_object(wire.decode_base64(item.text))
    except ValueError:
        return  # no provider can read it, either
    for name, value in members.items():
        if name.lower() in _NAMES_OF_KEYS and isinstance(value, str):
            yield value
            yield from _canonical(value)


def _canonical(kid: str) -> Iterator[str]:
    from decoder.keywrap.kid import parse_kid
    from decoder.provider.errors import ProviderError

    try:
        resource = parse_kid(kid)
    except ProviderError:
        return
    yield str(resource)
    yield str(resource._replace(query=""))
