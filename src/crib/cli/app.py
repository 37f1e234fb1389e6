"""The commands of `crib` and their help."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from crib import __version__
from crib.cli import node_options as node_args
from crib.cli import options as args
from crib.cli import panels
from crib.cli.checkpoint_commands import add_checkpoint_commands
from crib.cli.command import command, command_group, group
from crib.cli.command_help import CribGroup
from crib.cli.completion_commands import add_completion_command
from crib.cli.config_commands import add_config_commands
from crib.cli.conform_commands import add_conform_command
from crib.cli.crictl_commands import add_crictl_commands
from crib.cli.debug_commands import add_debug_commands
from crib.cli.image_commands import add_image_commands
from crib.cli.lifecycle_commands import add_lifecycle_commands
from crib.cli.looking_commands import add_looking_commands
from crib.cli.network_commands import network
from crib.cli.nri_commands import add_nri_commands
from crib.cli.session import (
    CRIB_FAILED,
    DEFAULT_PODS_DIR,
    PODS_DIR_VARIABLE,
    CliSession,
    ending,
    fill_standard_streams,
    quiet,
)
from crib.cli.vm_commands import add_vm_commands
from crib.cli.volume_commands import add_volume_commands
from crib.cli.workload_commands import add_workload_commands
from crib.cli.workload_options import RunCommandOptions

DEFAULT_ENDPOINT = "unix:///run/crib/crib.sock"
_RUN, _LOOK, _IMAGES, _NODE = panels.RUN, panels.LOOK, panels.IMAGES, panels.NODE

app = typer.Typer(
    name="crib",
    cls=CribGroup,
    help="Run and inspect Kubernetes pods on this node, and see where their start spends its time.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"crib {__version__}")
        raise typer.Exit


image = group("Check, repair and export images.")
app.add_typer(image, name="image", rich_help_panel=_IMAGES)
registry = group("Show how registries are asked for images.")
app.add_typer(registry, name="registry", rich_help_panel=_IMAGES)
app.add_typer(network, name="network", rich_help_panel=_NODE)
add_nri_commands(app, _NODE)


@app.callback()
def _globals(
    ctx: typer.Context,
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint",
            "--runtime-endpoint",
            "-e",
            "-r",
            envvar="CRIB_ENDPOINT",
            help="The socket of crib or of another CRI runtime.",
        ),
    ] = DEFAULT_ENDPOINT,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long to wait for an answer.")
    ] = 120.0,
    pods_dir: Annotated[
        str,
        typer.Option(
            envvar=PODS_DIR_VARIABLE,
            metavar="DIRECTORY",
            help="Where `crib run` keeps the volumes and logs of pods.",
        ),
    ] = DEFAULT_PODS_DIR,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    ctx.obj = CliSession(endpoint, os.path.abspath(pods_dir), timeout)


@command(app, RunCommandOptions, _RUN)
def run(session: CliSession, options: RunCommandOptions) -> None:
    """Run the pods of Kubernetes manifests.

    Takes Pods and the templates of Deployments, Jobs and other workloads, with ConfigMaps, Secrets and claims
    from the same files or --from others; services and the like are noted and left out. Checks everything and
    pulls missing images before anything is made or replaced. docs/manifests.md lists every field. Without a
    seccompProfile a container gets the runtime's default.

    crib run web.yaml && crib logs -f web
    """
    from crib.cli import crictl
    from crib.cli import run as work

    if crictl.are_configs(options.manifests):
        session.run(crictl.run(session, *options.manifests))
    else:
        session.run(work.run(session, options))


add_workload_commands(app, _RUN)
add_volume_commands(app, _RUN)
add_lifecycle_commands(app, panels.CHANGE)
add_checkpoint_commands(app, panels.CHANGE)


add_looking_commands(app, _LOOK)


@command(app, args.ExecOptions, panels.WORK, name="exec")
def exec_(session: CliSession, options: args.ExecOptions) -> None:
    """Run a command in a container and exit with its exit code.

    Output appears as it is written. With -i the command gets standard input. With -it it gets a terminal, and
    all keys go to it unchanged, even Ctrl-C.

    crib exec -it web -c server -- sh
    """
    from crib.cli import execute

    raise typer.Exit(session.run(execute.execute(session, options), CRIB_FAILED))


@command(app, args.AttachOptions, panels.WORK)
def attach(session: CliSession, options: args.AttachOptions) -> None:
    """Attach to the first process of a container: see its output from now on, and with -i send it input.

    Ends when the container ends. On a terminal Ctrl-P Ctrl-Q detaches and leaves the container running.

    crib attach -i web -c shell
    """
    from crib.cli import execute as work

    raise typer.Exit(session.run(work.attach(session, options), CRIB_FAILED))


@command(app, args.ForwardOptions, panels.WORK)
def forward(session: CliSession, options: args.ForwardOptions) -> None:
    """Forward local ports to a pod until Ctrl-C.

    With crib as the runtime, UDP ports and a container's unix sockets can be forwarded too.

    crib forward web 8080:80 udp:53 :unix:db:/run/db.sock
    """
    from crib.cli import forward as work

    session.run(work.forward(session, options))


@command(app, args.CopyOptions, panels.WORK)
def cp(session: CliSession, options: args.CopyOptions) -> None:
    """Copy files and directories to or from a container. The container needs the program tar.

    Keeps modes, times and hard links. Copies belong to the user who copies. Sparse files are sent in full.
    Nothing from a container is ever written outside the destination. Links that point outside, devices and
    pipes are skipped and reported, and the exit code is then 1.

    crib cp web:/var/log/app ./logs
    """
    from crib.cli import copy

    session.run(copy.copy(session, options))


@command(app, args.InspectOptions, _LOOK)
def inspect(session: CliSession, options: args.InspectOptions) -> None:
    """Show everything about a pod, a container or an image."""
    from crib.cli import inspection

    session.run(inspection.inspect(session, options))


@command(app, args.ExplainSpecOptions, _RUN, name="explain")
def explain_spec(session: CliSession, options: args.ExplainSpecOptions) -> None:
    """Show the OCI spec of a manifest or a container, with the origin of each field.

    Makes, runs and pulls nothing. The origin is what a field depends on: the container's or the pod's
    configuration, the image, the handler with its hooks and devices, or the host. "default" depends on none
    of them; "earlier" would be different if the container were made now. Paths with ids are examples.

    crib explain web.yaml -c server
    """
    from crib.cli import explain as work

    session.run(work.explain(session, options))


@command(app, node_args.WorkOptions, _NODE)
def work(session: CliSession, options: node_args.WorkOptions) -> None:
    """Show work in progress: each verb with its object and stage, and what threads wait for."""
    from crib.cli import upkeep as commands

    session.run(commands.work(session, options))


@command(app, node_args.AbandonOptions, _NODE)
def abandon(session: CliSession, options: node_args.AbandonOptions) -> None:
    """Give up on a pod or a container whose verbs hang, and remove it in the background.

    Callers that wait for its verbs get an error at once, and its name is free for the next attempt. It is
    shown as NotReady or Unknown until nothing of it is left.

    crib work, then crib abandon 8d5a1f
    """
    from crib.cli import upkeep as commands

    session.run(commands.abandon(session, options))


add_image_commands(app, image, _IMAGES)


@command(app, args.PullOptions, _IMAGES)
def pull(session: CliSession, options: args.PullOptions) -> None:
    """Pull images and print their ids.

    Shows the progress of each layer, and the registry or mirror that it comes from. Without credentials the
    runtime uses those of the node. Credentials are read only from standard input, because every user of the
    node can see arguments. --watch follows a pull of a kubelet or another client.

    crib pull --user ci --password-stdin registry.example/app:1 < password
    """
    from crib.cli import images as work

    session.run(work.pull(session, options))


@command(app, args.ImportOptions, _IMAGES, name="import")
def import_(session: CliSession, options: args.ImportOptions) -> None:
    """Import images from an archive on this node and print their names."""
    from crib.cli import images as work

    session.run(work.import_archive(session, options))


@command(image, args.CheckOptions, _IMAGES, name="check")
def check_images(session: CliSession, options: args.CheckOptions) -> None:
    """Compare the layers of images on disk with what was recorded when they were written.

    Shows each damaged layer with its images. Exits with 1 if damage remains. --repair fetches damaged layers
    again; containers keep running.
    """
    from crib.cli import images as work

    raise typer.Exit(session.run(work.check(session, options)))


@command(image, args.ExportOptions, _IMAGES)
def export(session: CliSession, options: args.ExportOptions) -> None:
    """Write images to an archive on this node, for crib import or docker load elsewhere."""
    from crib.cli import images as work

    session.run(work.export(session, options))


@command(registry, args.ExplainOptions, _IMAGES)
def explain(session: CliSession, options: args.ExplainOptions) -> None:
    """Show which hosts would be asked for an image, in which order, with which credential and why.

    Contacts no host. Also shows whether the image policy accepts the image.
    """
    from crib.cli import images as work

    session.run(work.explain(session, options))


@command(app, args.InfoOptions, _NODE)
def info(session: CliSession, options: args.InfoOptions) -> None:
    """Show whether the runtime is ready, and what it found out about this node."""
    from crib.cli import inspection as work

    session.run(work.info(session, options))


@command(app, node_args.NodeCheckOptions, _NODE)
def check(session: CliSession, options: node_args.NodeCheckOptions) -> None:
    """Check the whole node; one line for each thing that is wrong or worth reporting.

    Compares records with what runs, and what is on the host with the records; checks databases, layers,
    networks, logs and disk space. --repair repairs as a restart, a stop or a pull would; containers keep
    running. Exits with 0 if nothing is wrong (any more), 1 if something is, 2 if the check was not possible.
    """
    from crib.cli import upkeep as work

    raise typer.Exit(session.run(work.check(session, options)))


@command(app, node_args.WipeOptions, _NODE)
def wipe(session: CliSession, options: node_args.WipeOptions) -> None:
    """Remove all pods, containers or images, layers that no image needs, the bridge, or all of that.

    Removes nothing without --yes, and kills no running container without --force or --offline. Logs and
    networks of CNI stay, and volumes where they are not named. --offline also removes what belongs to no
    record. It works on a damaged node too: with missing programs and directories, or unreadable records.
    """
    from crib.cli import upkeep as work

    raise typer.Exit(session.run(work.wipe(session, options)))


add_debug_commands(app, _NODE)
add_crictl_commands(app)
add_completion_command(app, _NODE)
add_config_commands(app, _NODE)
add_vm_commands(app, _NODE)
add_conform_command(app, _NODE)

# commands of another room, found by name: the rooms do not import each other
_bench = importlib.import_module("crib.bench.app")
_bench_group = command_group(app, _bench.BenchOptions, _NODE, _bench.bench)
command(_bench_group, _bench.PullBenchOptions, _NODE)(_bench.pull)
command(_bench_group, _bench.StreamsOptions, _NODE)(_bench.streams)
command(_bench_group, _bench.CrowdOptions, _NODE)(_bench.crowd)
command(_bench_group, _bench.DayOptions, _NODE)(_bench.day)


def main() -> None:
    """Run the program with the arguments it was given, and exit."""
    fill_standard_streams()
    quiet()
    if len(sys.argv) > 1:
        sys.exit(_ending(sys.argv[1:]))
    _ending(["--help"])
    sys.exit(2)


def _ending(arguments: list[str]) -> int:
    return ending(lambda: app(arguments, prog_name="crib", standalone_mode=False))
