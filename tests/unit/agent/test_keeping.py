"""A worker whose zygote has ended, so that nothing of the keeper reaches it: it asks keyproviders itself."""

from __future__ import annotations

from decoder.agent.notices import Notices
from decoder.agent.processes.keeping import KeptByAgent
from decoder.agent.processes.parsedkeys import ParsedKeys
from decoder.keys.subject import Subject
from decoder.provider import envelope
from decoder.provider.client.config import Configured, NativeProvider
from tests.support.keywrap.layers import private_options


def test_without_a_keeper() -> None:
    notices = Notices()
    notices._reading.close()
    kept = KeptByAgent(0, ParsedKeys(), notices)
    provider = Configured("vault", NativeProvider("openbao", {"key": "layers"}), 60, (), Subject())
    wrapped = envelope.seal(envelope.new_kek(), "openbao", b'{"key_url":"openbao://transit/layers"}', private_options())
    assert envelope.is_envelope(wrapped)
    assert not kept.has_opened(provider, wrapped, [])
    assert kept.ask(provider, "keyunwrap", wrapped, []) is None
    notices._writing.close()
