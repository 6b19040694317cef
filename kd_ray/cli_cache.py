"""The `kd-ray cache` commands: what is in a cache, whether it is whole, and what may go."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from kd_ray.config.load import load_recipe
from kd_ray.run import exit_status, make_console

app = typer.Typer(no_args_is_help=True, help="Look into a cache, check it, clean it.")

Uri = Annotated[str, typer.Argument(metavar="URI", help="the location of the cache: a recipe's cache.uri")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="a name that `kd-ray cache ls` gives, or a part of one")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a dotted override of the recipe; repeatable")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there")]
SECONDS_A_DAY = 86_400


UNCHANGED = "nothing was changed"


@app.command("ls")
def list_(uri: Uri, as_json: AsJson = False) -> None:
    """List view sets and outputs with their sizes, ages and completeness."""
    console = make_console()
    with exit_status(console, interrupted=UNCHANGED):
        from pipelines.cache.ls import list_cache

        list_cache(uri, console=console, as_json=as_json)


@app.command()
def show(uri: Uri, name: Name, as_json: AsJson = False) -> None:
    """Show one view set or output: identity, statistics, units."""
    console = make_console()
    with exit_status(console, interrupted=UNCHANGED):
        from pipelines.cache.show import show_entry

        show_entry(uri, name, console=console, as_json=as_json)


@app.command()
def verify(
    uri: Uri,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="only what has this in its name")] = None,
    deep: Annotated[
        Path | None,
        typer.Option(metavar="RECIPE", help="also compute random targets again, with the teachers of this recipe"),
    ] = None,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(help="with --deep: how many of each target set")] = 64,
    seed: Annotated[int, typer.Option(help="with --deep: which of them")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="with --deep: in deviations of an output, beyond rounding; that of the precision if not given"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="with --deep: where the teacher runs, such as cuda")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Read everything that is committed and compare it with its records; exit status 1 where anything is off."""
    console = make_console()
    with exit_status(console, interrupted=UNCHANGED):
        from pipelines.cache.verify import verify_cache

        request = None
        if deep is not None:
            from pipelines.cache.deep import DeepRequest

            request = DeepRequest(
                recipe=deep,
                overrides=tuple(overrides or ()),
                num_samples=samples,
                seed=seed,
                tolerance=tolerance,
                device=device,
            )
        status = verify_cache(uri, name, deep=request, console=console, as_json=as_json)
    raise SystemExit(status)


@app.command()
def gc(
    uri: Uri,
    yes: Annotated[bool, typer.Option("--yes", help="remove it; without this it is only listed")] = False,
    older_than: Annotated[
        float,
        typer.Option(min=0.0, metavar="DAYS", help="spare what was written in the last DAYS: a run may be at work"),
    ] = 1.0,
    target_set: Annotated[
        str | None, typer.Option(help="also this target set, and its views where no other uses them")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List, and with --yes remove, what no reader looks at: attempts without a commit, superseded ones, leftovers."""
    console = make_console()
    with exit_status(console, interrupted="some of it may be gone, the same command removes the rest"):
        from pipelines.cache.gc import collect_garbage

        collect_garbage(
            uri,
            older_than_s=older_than * SECONDS_A_DAY,
            target_set=target_set,
            remove=yes,
            console=console,
            as_json=as_json,
        )


@app.command()
def diff(
    old: Annotated[
        str, typer.Argument(metavar="A", help="a folder of a cache (CACHE/views/… or CACHE/targets/…), or a recipe")
    ],
    new: Annotated[
        str,
        typer.Argument(metavar="B", help="another, of the same or another cache; beside a recipe, a whole cache too"),
    ],
    overrides: Overrides = None,
    show_all: Annotated[bool, typer.Option("--all", help="every difference, not the first alone")] = False,
    as_json: AsJson = False,
) -> None:
    """Name the first field by which two view sets, target sets or outputs differ, or what a recipe would make differs
    from the nearest of a cache; exit status 1 where one does.
    """
    console = make_console()
    with exit_status(console, interrupted=UNCHANGED):
        from pipelines.cache.diff import compare

        status = compare(old, new, overrides=overrides or (), show_all=show_all, console=console, as_json=as_json)
    raise SystemExit(status)


@app.command()
def repair(
    recipe: Annotated[Path, typer.Argument(help="the recipe that the cache is used by, a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="dotted overrides")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify what a recipe uses of its cache, and compute exactly the units that are damaged again."""
    console = make_console()
    with exit_status(console, interrupted="what was committed is kept, the same command goes on from there"):
        loaded = load_recipe(recipe, overrides or [])
        from pipelines.cache.repair import repair_cache

        status = repair_cache(loaded, console=console, as_json=as_json)
    raise SystemExit(status)


@app.command()
def export(
    uri: Uri,
    name: Name,
    to: Annotated[str, typer.Option("--to", metavar="DEST", help="an empty location, here or on S3")],
    format_: Annotated[Literal["parquet", "webdataset"], typer.Option("--format", help="of the files")] = "parquet",
    as_stored: Annotated[
        bool, typer.Option("--as-stored", help="what the codec stores, instead of values decoded from it")
    ] = False,
    corpus: Annotated[
        str | None, typer.Option(metavar="URI", help="corpus.packed_uri of the recipe: adds its labels")
    ] = None,
    license_: Annotated[str | None, typer.Option("--license", help="for the card, such as cc-by-4.0")] = None,
    author: Annotated[str | None, typer.Option(help="for the card")] = None,
    cite: Annotated[str | None, typer.Option(help="for the card: how to cite it")] = None,
    as_json: AsJson = False,
) -> None:
    """Write an output as plain Parquet or WebDataset tars, one file a unit, with a card that says what it is."""
    console = make_console()
    with exit_status(console, interrupted="what was written is kept, the same command goes on from there"):
        from kd_ray.cache.export_card import Said
        from pipelines.cache.export import ExportRequest, export_output

        request = ExportRequest(
            to=to,
            format=format_,
            as_stored=as_stored,
            corpus_uri=corpus,
            said=Said(license=license_, author=author, cite=cite),
        )
        export_output(uri, name, request, console=console, as_json=as_json)


@app.command("import")
def import_(
    recipe: Annotated[Path, typer.Argument(help="the recipe that the features are for: corpus, views, teacher, cache")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="dotted overrides")] = None,
    *,
    features: Annotated[str, typer.Option(metavar="FOLDER", help="one .npy, .pt or .safetensors for each sample")],
    teacher: Annotated[str | None, typer.Option(help="which imported teacher, where there are several")] = None,
    mapping: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="a .csv or .parquet with columns location, file and, if need be, key"),
    ] = None,
    key: Annotated[str | None, typer.Option(help="the tensor inside files that hold several")] = None,
    grid: Annotated[
        str | None, typer.Option(metavar="HxW", help="of spatial features stored as [tokens, channels]")
    ] = None,
    replayed: Annotated[
        bool,
        typer.Option("--replayed", help="the features are of the recipe's own views, though they are drawn at random"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a folder of feature files that somebody has computed already into targets of an imported teacher."""
    console = make_console()
    with exit_status(console, interrupted="what was committed is kept, the same command goes on from there"):
        loaded = load_recipe(recipe, overrides or [])
        from pipelines.cache.import_features import ImportRequest, import_features

        request = ImportRequest(
            features_uri=features, teacher=teacher, mapping_uri=mapping, key=key, grid=grid, replayed=replayed
        )
        import_features(loaded, request, console=console, as_json=as_json)


@app.command()
def fidelity(
    uri: Uri,
    name: Name,
    samples: Annotated[int | None, typer.Option(help="how many views to measure; without it about 2,000")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each codec would do to an output's values, and what it would cost; best of one stored as float32."""
    console = make_console()
    with exit_status(console, interrupted=UNCHANGED):
        from pipelines.cache.fidelity import DEFAULT_SAMPLES, measure_fidelity

        num_samples = DEFAULT_SAMPLES if samples is None else samples
        measure_fidelity(uri, name, num_samples=num_samples, console=console, as_json=as_json)
