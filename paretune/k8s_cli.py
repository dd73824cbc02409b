"""The commands of a sweep on Kubernetes: `paretune k8s ...`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paretune.sweeps import INTERRUPTED
from search.errors import SpecError

if TYPE_CHECKING:
    from k8s.client import Cluster
    from k8s.schedule import Schedule
    from k8s.status import SweepStatus
    from k8s.sweep import ClusterSweep

app = typer.Typer(
    help="Run a sweep on a Kubernetes cluster with KubeRay, now or every night.",
    no_args_is_help=True,
)

SweepFile = Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file (YAML).")]
Target = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or its sweep file.")]
Context = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of the kubeconfig, in place of its current.")
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="In place of the sweep file's."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the sweep to its end.")]
Cron = Annotated[
    str, typer.Option(metavar="FIELDS", help="Minute, hour, day of month, month, weekday.")
]
TimeZone = Annotated[str, typer.Option(metavar="NAME", help="Of the cron fields.")]
Keep = Annotated[int, typer.Option(min=1, help="Nights whose studies are kept.")]


@app.command()
def render(
    file: SweepFile,
    *,
    cron: Annotated[
        str | None, typer.Option(metavar="FIELDS", help="Print what `schedule` sends instead.")
    ] = None,
    time_zone: TimeZone = "Etc/UTC",
    keep: Keep = 14,
    namespace: Namespace = None,
) -> None:
    """Print the objects that `submit` sends. No cluster is asked."""
    from k8s.manifests import sweep_manifests
    from k8s.render import to_yaml
    from k8s.schedule import schedule_manifests
    from k8s.sweep import cluster_section

    spec = _sweep(file, namespace)
    section = cluster_section(spec)
    if cron is None:
        manifests = sweep_manifests(spec, section)
    else:
        manifests = schedule_manifests(spec, section, _schedule(cron, time_zone, keep))
    typer.echo(to_yaml(manifests), nl=False)


@app.command()
def submit(
    file: SweepFile, *, wait: Wait = False, context: Context = None, namespace: Namespace = None
) -> None:
    """Start a sweep on the cluster. One that is there already is left as it is."""
    from k8s.status import observe
    from k8s.submit import submit as send

    spec = _sweep(file, namespace)
    cluster = _cluster(spec, context, namespace)
    if send(cluster, spec):
        _say(f"submitted {spec.name} to {cluster}")
    else:
        _say(f"{spec.name} is there already in {cluster}: {observe(cluster, spec.name)}")
        _say_how_to_resume(observe(cluster, spec.name), file)
    _follow(cluster, spec.name, file, context, wait=wait)


@app.command()
def resume(
    file: SweepFile, *, wait: Wait = False, context: Context = None, namespace: Namespace = None
) -> None:
    """Start a sweep that was stopped, has failed or wants more trials again, on its study."""
    from k8s.submit import resume as send

    spec = _sweep(file, namespace)
    cluster = _cluster(spec, context, namespace)
    if send(cluster, spec):
        _say(f"submitted {spec.name} to {cluster}; it goes on with its study")
    else:
        _say(f"{spec.name} still runs in {cluster}; it was left as it is")
    _follow(cluster, spec.name, file, context, wait=wait)


@app.command()
def status(
    sweep: Target,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Say how a sweep is doing: phase, what holds it up, trials and front."""
    import json
    from dataclasses import asdict

    from k8s.status import observe, progress, study_location

    name, cluster = _named(sweep, context, namespace)
    found = observe(cluster, name)
    far = progress(cluster, found, study_location(cluster, name))
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"progress": far and asdict(far)}, indent=1))
        return
    typer.echo(f"{name}: {found}")
    for problem in found.problems:
        typer.echo(f"  {problem}")
    if found.workers:
        typer.echo(f"  {found.workers} workers ready")
    typer.echo(f"  {far}" if far else "  trials: not to be seen from here")


@app.command("list")
def list_sweeps(*, context: Context = None, namespace: Namespace = None) -> None:
    """List the sweeps of the namespace."""
    from k8s.status import observe_all

    cluster = _cluster(None, context, namespace)
    found = observe_all(cluster)
    if not found:
        _say(f"no sweeps in {cluster}")
    width = max((len(sweep.name) for sweep in found), default=0)
    for sweep in found:
        typer.echo(f"{sweep.name:<{width}}  {sweep.started_at or '-':<20}  {sweep}")


@app.command()
def logs(
    sweep: Target,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the sweep ends.")
    ] = False,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Print what the driver of a sweep prints, as long as its pods are there."""
    from k8s.errors import ClusterError
    from k8s.status import driver_log, observe
    from k8s.submit import follow_log

    name, cluster = _named(sweep, context, namespace)
    if follow:
        try:
            follow_log(cluster, name, lambda text: typer.echo(text, nl=False), _say)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        return
    found = observe(cluster, name)
    log = driver_log(cluster, found)
    if log is None:
        raise ClusterError(f"the driver's pod is not there, so there is no log: {found}")
    typer.echo(log, nl=False)


@app.command()
def stop(
    sweep: Target,
    *,
    everything: Annotated[
        bool,
        typer.Option("--everything", help="Also TensorBoard, accounts and all that was made."),
    ] = False,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """End the job of a sweep. Its study stays, and `resume` goes on with it."""
    from k8s.submit import stop as end

    name, cluster = _named(sweep, context, namespace)
    if end(cluster, name, everything=everything):
        _say(f"stopped {name} in {cluster}; its study is kept")
    else:
        _say(f"{name} has no job in {cluster}")


@app.command()
def schedule(
    file: SweepFile,
    *,
    cron: Cron = "0 2 * * *",
    time_zone: TimeZone = "Etc/UTC",
    keep: Keep = 14,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Run a sweep every night, each a new study that starts from the earlier ones."""
    from k8s.submit import schedule as send

    spec = _sweep(file, namespace)
    when = _schedule(cron, time_zone, keep)
    cluster = _cluster(spec, context, namespace)
    done = "scheduled" if send(cluster, spec, when) else "changed the schedule of"
    _say(f"{done} {spec.name} in {cluster}: {cron} ({time_zone})")


@app.command()
def unschedule(sweep: Target, *, context: Context = None, namespace: Namespace = None) -> None:
    """End the nights of a sweep. Their studies stay."""
    from k8s.submit import unschedule as end

    name, cluster = _named(sweep, context, namespace)
    if end(cluster, name):
        _say(f"{name} no longer runs at night in {cluster}; its studies are kept")
    else:
        _say(f"{name} has no nights in {cluster}")


# --- inside --------------------------------------------------------------------------------------


def _sweep(file: Path, namespace: str | None = None) -> ClusterSweep:
    from k8s.names import check_label
    from k8s.sweep import check_cluster, cluster_section, load_cluster_sweep
    from search.spec.preflight import preflight

    spec = load_cluster_sweep(file)
    section = cluster_section(spec)
    check_cluster(spec, section)
    preflight(spec, elsewhere=True)
    if namespace:
        try:
            check_label(namespace)
        except ValueError as error:
            raise SpecError(f"--namespace: got {namespace!r}; {error}") from error
        section = section.model_copy(update={"namespace": namespace})
        spec = spec.model_copy(update={"cluster": section})
    return spec


def _schedule(cron: str, time_zone: str, keep: int) -> Schedule:
    from k8s.schedule import Schedule

    return Schedule(cron, time_zone, keep)


def _cluster(spec: ClusterSweep | None, context: str | None, namespace: str | None) -> Cluster:
    from k8s.client import Cluster

    own = spec.cluster.namespace if spec and spec.cluster else None
    return Cluster.connect(context=context, namespace=namespace or own)


def _named(target: str, context: str | None, namespace: str | None) -> tuple[str, Cluster]:
    """Give the sweep's name and its cluster, of a name or a file."""
    from k8s.names import check_object_name

    if target.endswith((".yaml", ".yml")):
        spec = _sweep(Path(target), namespace)
        return spec.name, _cluster(spec, context, namespace)
    try:
        check_object_name(target)
    except ValueError as error:
        raise SpecError(
            f"got {target!r}; allowed: a sweep file, or a sweep's name: {error}"
        ) from error
    return target, _cluster(None, context, namespace)


def _follow(cluster: Cluster, name: str, file: Path, context: str | None, *, wait: bool) -> None:
    from k8s.submit import wait as follow

    place = ["--namespace", cluster.namespace, *(["--context", context] if context else [])]
    if not wait:
        _say(f"  {shlex.join(['paretune', 'k8s', 'status', name, *place])}")
        return
    again = shlex.join(["paretune", "k8s", "submit", str(file), "--wait", *place])
    try:
        follow(cluster, name, _say)
    except KeyboardInterrupt:
        _say(f"{name} goes on in the cluster; to follow it again: {again}")
        raise typer.Exit(INTERRUPTED) from None


def _say_how_to_resume(found: SweepStatus, file: Path) -> None:
    if found.ended:
        _say(f"to run it again on the same study: paretune k8s resume {file}")


def _say(text: str) -> None:
    typer.echo(text, err=True)
