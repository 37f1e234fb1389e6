"""The commands around the daemon's configuration, and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command, group
from crib.cli.config_options import (
    ConfigCheckOptions,
    ConfigDiffOptions,
    ConfigImportOptions,
    ConfigPrintOptions,
    ConfigShowOptions,
    ReloadOptions,
    SetupOptions,
)
from crib.cli.session import CliSession


def add_config_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    config = group("Show, check and compare the daemon's settings.")
    app.add_typer(config, name="config", rich_help_panel=panel)
    command(config, ConfigShowOptions, panel)(show)
    command(config, ConfigCheckOptions, panel)(check)
    command(config, ConfigDiffOptions, panel)(diff)
    command(config, ConfigPrintOptions, panel)(default)
    command(config, ConfigPrintOptions, panel)(schema)
    command(config, ConfigImportOptions, panel)(import_)
    command(app, ReloadOptions, panel, name="reload")(reload_)
    command(app, SetupOptions, panel)(setup)


def reload_(session: CliSession, options: ReloadOptions) -> None:
    """Have cribd read its configuration again, while pods run on.

    All of it counts, or nothing: if anything is wrong, every fault is shown, nothing changes, and the exit
    code is 1. Settings that only a restart changes are listed. crib config diff shows beforehand what a
    reload would do.
    """
    from crib.cli import config as work

    raise typer.Exit(session.run(work.reload_(session, options)))


def show(session: CliSession, options: ConfigShowOptions) -> None:
    """Show the settings that hold in the daemon, and where each comes from.

    ORIGIN is FILE:LINE:COLUMN, an environment variable, or default.

    crib config show --changed

    crib config show network log.level
    """
    from crib.cli import config as work

    session.run(work.show(session, options))


def check(session: CliSession, options: ConfigCheckOptions) -> None:
    """Tell all that is wrong with a configuration; needs no daemon.

    Each fault has its file, line and column. The exit code is 1 if there is one. The same as
    cribd --check-config.
    """
    from crib.cli import config as work

    raise typer.Exit(work.check_file(options.file))


def diff(session: CliSession, options: ConfigDiffOptions) -> None:
    """Compare the daemon's settings with its files as they are now: what a reload would do.

    With --defaults, the daemon's settings with the defaults; with --file and --defaults, that file's. The
    exit code is 1 if there is a difference.
    """
    from crib.cli import config as work

    raise typer.Exit(session.run(work.diff(session, options)))


def default(session: CliSession, options: ConfigPrintOptions) -> None:
    """Print a configuration with every key at its default, commented out and explained."""
    from crib.cli import config as work

    raise typer.Exit(work.run_program("default"))


def schema(session: CliSession, options: ConfigPrintOptions) -> None:
    """Print a JSON schema of the configuration, for editors and tools."""
    from crib.cli import config as work

    raise typer.Exit(work.run_program("schema"))


def import_(session: CliSession, options: ConfigImportOptions) -> None:
    """Make a configuration of containerd's config.toml or of CRI-O's crio.conf; needs no daemon.

    The configuration goes to standard output. What became of each key goes to standard error: the key of
    crib's, or why there is none, with file and line. Imports and crio.conf.d are read, too.

    crib config import >/etc/crib/conf.d/10-imported.toml
    """
    from crib.cli import config as work

    raise typer.Exit(work.run_program("import", "--file", options.file))


def setup(session: CliSession, options: SetupOptions) -> None:
    """Check whether this host can run crib under a kubelet, and say what to do where it cannot.

    Looks at kernel, cgroups, programs, network, storage, the kubelet's configuration and other runtimes. It
    changes nothing and needs no daemon. The exit code is 1 if there is a problem. crib check looks at a
    running daemon instead.

    --write shows what it would write as a diff, and asks for each file.
    """
    from crib.cli import setup as work

    raise typer.Exit(work.setup(options))
