"""`crib completion`: the scripts with which shells complete crib's command lines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.command import command
from crib.cli.session import CliSession


class Shell(StrEnum):
    """Shells that we have a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@dataclass(frozen=True)
class CompletionOptions:
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="The shell that is to complete.")]


def add_completion_command(app: typer.Typer, panel: str) -> None:
    """Register it, to be listed under this heading."""
    command(app, CompletionOptions, panel)(completion)


def completion(session: CliSession, options: CompletionOptions) -> None:
    """Print a script that completes commands, options, pods, containers, images and handlers.

    The Debian package has them in place. Otherwise:

    crib completion bash > /etc/bash_completion.d/crib
    crib completion zsh > "${fpath[1]}/_crib"
    crib completion fish > ~/.config/fish/completions/crib.fish
    """
    print(SCRIPTS[options.shell], end="")


_BASH = r"""# completes crib's command lines in bash; made by crib completion bash
_crib() {
    local line=${COMP_LINE:0:COMP_POINT} word=${COMP_WORDS[COMP_CWORD]} value rest
    local -a typed=()
    # bash takes words apart at = and :, but names of images and options have these
    read -ra typed <<<"$line"
    [[ $line == *[[:space:]] ]] && typed+=('')
    local last=${typed[-1]}
    [[ $word == [=:] ]] && word=
    local before=${last%"$word"}
    COMPREPLY=()
    while IFS=$'\t' read -r value rest; do
        if [[ $value == :files ]]; then
            compopt -o filenames
            while IFS= read -r value; do COMPREPLY+=("$value"); done < <(compgen -f -- "$word")
        else
            [[ $value == *= ]] && compopt -o nospace
            COMPREPLY+=("${value#"$before"}")
        fi
    done < <(crib __complete -- "${typed[@]:1}" 2>/dev/null)
}
complete -F _crib crib
"""
_ZSH = r"""#compdef crib
# completes crib's command lines in zsh; made by crib completion zsh
_crib() {
    local line value
    local -a found
    for line in "${(@f)$(crib __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        value=${line%%$'\t'*}
        if [[ $value == :files ]]; then
            _files
        elif [[ -n $value ]]; then
            found+=("${value//:/\\:}${${line#$value}/$'\t'/:}")
        fi
    done
    (( $#found )) && _describe -V crib found
}
if [[ $funcstack[1] == _crib ]]; then
    _crib "$@"
else
    compdef _crib crib
fi
"""
_FISH = r"""# completes crib's command lines in fish; made by crib completion fish
function __crib_complete
    set -l typed (commandline -opc) (commandline -ct)
    for line in (crib __complete -- $typed[2..] 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c crib -f -a '(__crib_complete)'
"""
SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}
"""What is printed for each."""
