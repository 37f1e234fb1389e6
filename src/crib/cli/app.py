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
from crib.cli.command import command, command_group
from crib.cli.ending import ending
from crib.cli.network_commands import network
from crib.cli.session import DEFAULT_PODS_DIR, PODS_DIR_VARIABLE, CliSession, fill_standard_streams, quiet
from crib.cli.upkeep_options import NodeCheckOptions, WipeOptions

DEFAULT_ENDPOINT = "unix:///run/crib/crib.sock"
_RUN, _LOOK, _IMAGES, _NODE = "Run pods", "Look at pods", "Images", "The node"

app = typer.Typer(
    name="crib",
    help="Run Kubernetes pods on this node, look at them, and see where their milliseconds go.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"crib {__version__}")
        raise typer.Exit


image = typer.Typer(help="Look after images: check and repair their layers, export them.")
app.add_typer(image, name="image", rich_help_panel=_IMAGES)
registry = typer.Typer(help="See how registries are asked for images.")
app.add_typer(registry, name="registry", rich_help_panel=_IMAGES)
app.add_typer(network, name="network", rich_help_panel=_NODE)


@app.callback()
def _globals(
    ctx: typer.Context,
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint", "-e", envvar="CRIB_ENDPOINT", help="The runtime's socket; any CRI runtime's."
        ),
    ] = DEFAULT_ENDPOINT,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for one answer.")] = 120.0,
    pods_dir: Annotated[
        str, typer.Option(envvar=PODS_DIR_VARIABLE, help="Where `crib run` keeps volumes and logs of pods.")
    ] = DEFAULT_PODS_DIR,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    ctx.obj = CliSession(endpoint, os.path.abspath(pods_dir), timeout)


@command(app, args.RunCommandOptions, _RUN)
def run(session: CliSession, options: args.RunCommandOptions) -> None:
    """Run the pods of a Kubernetes manifest.

    Takes v1 Pods (several documents, or a List): pulls what is missing, makes the sandbox, runs the init
    containers in order, starts the containers. A field that Kubernetes does not know, or that only a kubelet
    can honour, is refused; one without effect here is accepted with a note. Containers are not restarted
    when they end, whatever restartPolicy says. Without a seccompProfile a container gets the runtime's own.

    crib run web.yaml && crib logs -f web
    """
    from crib.cli import run as work

    session.run(work.run(session, options))


@command(app, args.StopOptions, _RUN)
def stop(session: CliSession, options: args.StopOptions) -> None:
    """Stop pods: the stop signal, the grace period, then SIGKILL. Logs and volumes stay until crib rm."""
    from crib.cli import lifecycle

    session.run(lifecycle.stop(session, options))


@command(app, args.RmOptions, _RUN)
def rm(session: CliSession, options: args.RmOptions) -> None:
    """Remove pods with their containers, logs and emptyDir volumes."""
    from crib.cli import lifecycle

    session.run(lifecycle.remove(session, options))


@command(app, args.PodsOptions, _LOOK)
def pods(session: CliSession, options: args.PodsOptions) -> None:
    """List pods."""
    from crib.cli import listing

    session.run(listing.pods(session, options))


@command(app, args.PsOptions, _LOOK)
def ps(session: CliSession, options: args.PsOptions) -> None:
    """List containers."""
    from crib.cli import listing

    session.run(listing.containers(session, options))


@command(app, args.LogsOptions, _LOOK)
def logs(session: CliSession, options: args.LogsOptions) -> None:
    """Show what a container wrote; its standard error goes to standard error."""
    from crib.cli import logs as work

    session.run(work.logs(session, options))


@command(app, args.ExecOptions, _LOOK, name="exec")
def exec_(session: CliSession, options: args.ExecOptions) -> None:
    """Run a command in a container and end with its exit code.

    Its output comes as it is written. With -i it gets standard input, with -it a terminal to which this one's
    keys go as they are, Ctrl-C too.

    crib exec -it web -c server -- sh
    """
    from crib.cli import execute

    raise typer.Exit(session.run(execute.execute(session, options)))


@command(app, args.AttachOptions, _LOOK)
def attach(session: CliSession, options: args.AttachOptions) -> None:
    """Join the first process of a container: see what it writes from now on, with -i type to it.

    Ends when the container does. On a terminal Ctrl-P Ctrl-Q leaves it running.

    crib attach -i web -c shell
    """
    from crib.cli import attach as work

    raise typer.Exit(session.run(work.attach(session, options)))


@command(app, args.ForwardOptions, _LOOK)
def forward(session: CliSession, options: args.ForwardOptions) -> None:
    """Listen here and connect to ports of a pod, until Ctrl-C.

    UDP ports and unix sockets of a container can be forwarded when the runtime is crib.

    crib forward web 8080:80 udp:53 :unix:db:/run/db.sock
    """
    from crib.cli import forward as work

    session.run(work.forward(session, options))


@command(app, args.CopyOptions, _LOOK)
def cp(session: CliSession, options: args.CopyOptions) -> None:
    """Copy files and directories to or from a container, which needs the program tar.

    Modes, times and hard links are kept; what arrives belongs to who copies. Sparse files are sent in full.
    Nothing from a container is ever written outside of the destination: links that lead out, devices and
    pipes are left out, told, and make the end 1.

    crib cp web:/var/log/app ./logs
    """
    from crib.cli import copy

    session.run(copy.copy(session, options))


@command(app, args.InspectOptions, _LOOK)
def inspect(session: CliSession, options: args.InspectOptions) -> None:
    """Show everything about a pod, a container or an image."""
    from crib.cli import inspection

    session.run(inspection.inspect(session, options))


@command(app, args.ExplainSpecOptions, _LOOK, name="explain")
def explain_spec(session: CliSession, options: args.ExplainSpecOptions) -> None:
    """Show the OCI spec that a manifest gives or a container has, each field with its origin.

    Nothing is made, run or pulled. Origins are what a field depends on: the container's or the pod's
    configuration, the image, the handler with its hooks and devices, the host; what nothing changes is a
    default, and what would be different now is earlier. Paths with ids in them are those that would be.

    crib explain web.yaml -c server
    """
    from crib.cli import explain as work

    session.run(work.explain(session, options))


@command(app, args.TimelineOptions, _LOOK)
def timeline(session: CliSession, options: args.TimelineOptions) -> None:
    """Show where the milliseconds of a pod's start went, stage by stage."""
    from crib.cli import timeline as work

    session.run(work.timeline(session, options))


@command(app, node_args.WorkOptions, _NODE)
def work(session: CliSession, options: node_args.WorkOptions) -> None:
    """Show what is under way: each verb with its object and its stage, and what threads wait for."""
    from crib.cli import work as commands

    session.run(commands.work(session, options))


@command(app, node_args.AbandonOptions, _NODE)
def abandon(session: CliSession, options: node_args.AbandonOptions) -> None:
    """Give up on a pod or a container whose verbs hang; it is taken away in the background.

    Who waits for its verbs is told at once, its name is free for the next attempt, and it is shown as
    NotReady or Unknown until nothing of it is left.

    crib work, then crib abandon 8d5a1f
    """
    from crib.cli import work as commands

    session.run(commands.abandon(session, options))


@command(app, args.ImagesOptions, _IMAGES)
def images(session: CliSession, options: args.ImagesOptions) -> None:
    """List images."""
    from crib.cli import listing

    session.run(listing.images(session, options))


@command(app, args.PullOptions, _IMAGES)
def pull(session: CliSession, options: args.PullOptions) -> None:
    """Pull images and write their ids.

    Shows how far each layer is, and which registry or mirror it comes from. Without credentials the runtime
    uses what the node has for the registry. They are read from standard input alone, as everybody on the node
    can see arguments. --watch follows a pull that a kubelet or somebody else began.

    crib pull --user ci --password-stdin registry.example/app:1 < password
    """
    from crib.cli import images as work

    session.run(work.pull(session, options))


@command(app, args.ImportOptions, _IMAGES, name="import")
def import_(session: CliSession, options: args.ImportOptions) -> None:
    """Import images from an archive on this node and write their names."""
    from crib.cli import images as work

    session.run(work.import_archive(session, options))


@command(image, args.CheckOptions, _IMAGES, name="check")
def check_images(session: CliSession, options: args.CheckOptions) -> None:
    """Compare images' layers on disk with what was recorded when they were written.

    Shows each damaged layer with the images that have it, and ends with 1 when damage remains. --repair
    fetches what is damaged anew, while containers go on running.
    """
    from crib.cli import image_check as work

    raise typer.Exit(session.run(work.check(session, options)))


@command(image, args.ExportOptions, _IMAGES)
def export(session: CliSession, options: args.ExportOptions) -> None:
    """Write images to an archive on this node, for crib import or docker load elsewhere."""
    from crib.cli import images as work

    session.run(work.export(session, options))


@command(registry, args.ExplainOptions, _IMAGES)
def explain(session: CliSession, options: args.ExplainOptions) -> None:
    """Show who would be asked for an image, in which order, with what and why.

    Nobody is asked. Also shown: whether the image policy lets it in.
    """
    from crib.cli import registry as work

    session.run(work.explain(session, options))


@command(app, args.RmiOptions, _IMAGES)
def rmi(session: CliSession, options: args.RmiOptions) -> None:
    """Remove images."""
    from crib.cli import images as work

    session.run(work.remove(session, options))


@command(app, args.InfoOptions, _NODE)
def info(session: CliSession, options: args.InfoOptions) -> None:
    """Show whether the runtime is ready, and what it found on this node."""
    from crib.cli import info as work

    session.run(work.info(session, options))


@command(app, NodeCheckOptions, _NODE)
def check(session: CliSession, options: NodeCheckOptions) -> None:
    """Check everything of this node, a line for each thing that is wrong or worth telling.

    Records against what runs, what lies about against the records, databases, layers, networks, logs, disk
    space. --repair mends as a restart, a stop or a pull would; containers go on running. Ends with 0 when
    nothing is wrong (any more), 1 when something is, 2 when it could not be looked at.
    """
    from crib.cli import upkeep as work

    raise typer.Exit(session.run(work.check(session, options)))


@command(app, WipeOptions, _NODE)
def wipe(session: CliSession, options: WipeOptions) -> None:
    """Remove all pods, containers or images, layers that no image needs, the bridge, or all of that.

    Nothing is removed without --yes, and no container that runs is ended without --force or --offline. Logs
    stay, as do volumes and networks of CNI. With --offline also what belongs to no record goes, on a node
    that is damaged too: missing programs and directories, unreadable records.
    """
    from crib.cli import upkeep as work

    raise typer.Exit(session.run(work.wipe(session, options)))


# programs of other rooms that are commands too: found by name, as the rooms import nothing of each other
_bench = importlib.import_module("crib.bench.app")
_bench_group = command_group(app, _bench.BenchOptions, _NODE, _bench.bench)
command(_bench_group, _bench.PullBenchOptions, _NODE)(_bench.pull)
command(_bench_group, _bench.StreamsOptions, _NODE)(_bench.streams)
command(_bench_group, _bench.CrowdOptions, _NODE)(_bench.crowd)


def main() -> None:
    """The entry point of the program `crib`."""
    fill_standard_streams()
    quiet()
    if len(sys.argv) > 1:
        sys.exit(_ending(sys.argv[1:]))
    _ending(["--help"])
    sys.exit(2)


def _ending(arguments: list[str]) -> int:
    return ending(lambda: app(arguments, prog_name="crib", standalone_mode=False))
