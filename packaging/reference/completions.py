"""Completions for bash, zsh and fish, made by shtab from the parsers."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING, cast

import shtab
from decoder.image.transport import TRANSPORTS
from decoder.keywrap import SCHEMES

from reference import parsers

if TYPE_CHECKING:
    from argparse import Action

# The values that stand for images, recipients and keys. A file follows these prefixes, or is a value by itself.
_KINDS = {
    "SRC": "image",
    "DST": "image",
    "PLACE": "image",
    "--skip-base": "image",
    "--recipient": "recipient",
    "--key": "key",
}
_PREFIXES = {
    "image": [f"{name}:" for name, module in TRANSPORTS.items() if module.startswith("files.")],
    "recipient": [f"{name}:" for name in SCHEMES if name != "pgp"],
    "key": [],
}
_WITH_BARE_FILES = ("recipient", "key")
_FILES = {"FILE", "CERT", "PATH"}
_DIRECTORIES = {"DIR"}


def scripts() -> dict[str, str]:
    """Return the completion script of each shell, by the shell's name."""
    parser = parsers.program_parser()
    _mark(parser)
    preamble = cast("str", _preamble())  # shtab takes one text per shell, too
    made = {shell: shtab.complete(parser, shell=shell, preamble=preamble) for shell in ("bash", "zsh", "fish")}
    made["bash"] = _with_colons(made["bash"])
    return made


def _mark(parser: ArgumentParser) -> None:
    """Return, for each action of a parser and of its commands, what the shell completes its value with."""
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action.choices, dict):
            for command in cast("dict[str, ArgumentParser]", action.choices).values():
                _mark(command)
        elif action.nargs != 0 and (complete := _completer(action)):
            action.complete = complete  # type: ignore[attr-defined]
        if isinstance(action.metavar, str):
            action.metavar = action.metavar.replace(":", " ")  # a colon ends a field of zsh's _arguments


def _completer(action: Action) -> dict[str, str] | None:
    value = str(action.metavar or "")
    name = action.option_strings[0] if action.option_strings else value
    if name in _KINDS and value != "VALUE":  # --key of a provider is a name at its key service
        function = f"_ctd_decoder_{_KINDS[name]}"
        return {"bash": function, "zsh": function, "fish": f"({function})"}
    if name == "--provider":
        action.choices = parsers.providers()
        return None
    words = (action.help or "").lower()
    if value in _DIRECTORIES or (value == "VALUE" and "directory" in words and "file" not in words):
        return cast("dict[str, str]", shtab.DIRECTORY)
    if value in _FILES or (value == "VALUE" and "file" in words):
        return cast("dict[str, str]", shtab.FILE)
    return None


def _preamble() -> dict[str, str]:
    names = [f"provider:{name}" for name in parsers.providers()]
    words = {
        "image": ["docker://" if name == "docker" else f"{name}:" for name in TRANSPORTS],
        "recipient": [*(f"{name}:" for name in SCHEMES), *names],
        "key": names,
    }
    return {
        "bash": "\n".join(_bash(kind, words[kind]) for kind in words),
        "zsh": "\n".join(_zsh(kind, words[kind]) for kind in words),
        "fish": "\n".join(_fish(kind, words[kind]) for kind in words),
    }


def _bash(kind: str, words: list[str]) -> str:
    """Complete one of some words, or a file after one that ends in a colon."""
    bare = '\n        *) compgen -f -- "$1" ;;' if kind in _WITH_BARE_FILES else ""
    files = "|".join(f"{prefix}*" for prefix in _PREFIXES[kind])
    after = (
        f"""
        {files}) compgen -P "${{1%%:*}}:" -f -- "${{1#*:}}" ;;"""
        if files
        else ""
    )
    return f"""\
_ctd_decoder_{kind}() {{
    compgen -W "{" ".join(words)}" -- "$1"
    case $1 in{after}{bare}
    esac
}}"""


def _zsh(kind: str, words: list[str]) -> str:
    files = " ".join(_PREFIXES[kind])
    bare = "\n    _files" if kind in _WITH_BARE_FILES else ""
    return f"""\
_ctd_decoder_{kind}() {{
    local prefix
    for prefix in {files}; do
        if compset -P "$prefix"; then
            _files
            return
        fi
    done
    compadd -S '' -- {" ".join(words)}{bare}
}}"""


def _fish(kind: str, words: list[str]) -> str:
    files = " ".join(_PREFIXES[kind])
    bare = "\n    __fish_complete_path $word" if kind in _WITH_BARE_FILES else ""
    return f"""\
function _ctd_decoder_{kind}
    set -l word (commandline -ct)
    printf '%s\\n' {" ".join(words)}
    for prefix in {files}
        if string match -q -- "$prefix*" $word
            set -l path (string replace -- $prefix '' $word)
            for file in (__fish_complete_path "$path")
                echo $prefix$file
            end
        end
    end{bare}
end"""


def _with_colons(script: str) -> str:
    """Keep the colon from ending a word in bash, because values look like `oci:DIR`."""
    start, end = script.rsplit("complete -o bashdefault -F ", 1)
    function, program = end.split()
    return f"""{start}
_ctd_decoder() {{
    local words=() index current=0 joined=0
    for index in "${{!COMP_WORDS[@]}}"; do
        if [[ $index -gt 0 && ( ${{COMP_WORDS[index]}} == :* || $joined == 1 ) ]]; then
            words[${{#words[@]}}-1]+=${{COMP_WORDS[index]}}
        else
            words+=("${{COMP_WORDS[index]}}")
        fi
        joined=0
        [[ ${{COMP_WORDS[index]}} == *: && $index -lt $COMP_CWORD ]] && joined=1
        [ "$index" -eq "$COMP_CWORD" ] && current=$((${{#words[@]}} - 1))
    done
    COMP_WORDS=("${{words[@]}}")
    COMP_CWORD=$current
    {function} "$@"
    local word=${{COMP_WORDS[COMP_CWORD]}}
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${{COMPREPLY[@]#"${{word%"${{word##*:}}"}}"}}")
    fi
    if [[ -e ${{COMPREPLY[0]}} && "${{COMPREPLY[*]}}" != *:* ]]; then
        compopt -o filenames
    elif [[ ${{COMPREPLY[0]}} == *[:/] ]]; then
        compopt -o nospace
    fi
}}
complete -o bashdefault -F _ctd_decoder {program}
"""
