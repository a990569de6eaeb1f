# SPDX-License-Identifier: Apache-2.0
"""The commands and their options. What they do is in the modules beside this one, which are
imported by the command that needs them: `heddle --help` imports no compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heddle.cli.console import Console, ending
from heddle.support.version import VERSION

app = typer.Typer(
    name="heddle",
    help="A deep learning compiler: models in, fast native code out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[Path, typer.Argument(help="A model (.onnx), or a compiled library (.so).")]
Source = Annotated[Path, typer.Argument(help="A model (.onnx).")]
Comparable = Annotated[
    Path,
    typer.Argument(help="A model (.onnx), a program of PyTorch (.pt2), or package.module:factory."),
]
TargetName = Annotated[
    str, typer.Option("--target", help='What to compile for; see "heddle targets".')
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision", help="float32, or bf16: products in bfloat16, everything else in float32."
    ),
]
ShapeList = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Shape of an input, as in image=1,3,224,224. Repeatable."),
]
InputList = Annotated[
    list[str] | None,
    typer.Option("--inputs", help="FILE.npz, or NAME=FILE.npy. Repeatable."),
]
DimList = Annotated[
    list[str] | None,
    typer.Option("--dim", help="Size of a symbolic dimension of random inputs, as in batch=4."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=256, help="Threads to run with.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"heddle {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    pass


@app.command("compile")
def _compile(
    model: Source,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The library to write; MODEL.so by default."),
    ] = None,
    target: TargetName = "native",
    precision: Precision = "float32",
    num_threads: Annotated[
        int | None, typer.Option("--num-threads", min=1, help="Cores to schedule for.")
    ] = None,
    header: Annotated[
        Path | None, typer.Option("--header", help="Also write the C header of the model.")
    ] = None,
    shape: ShapeList = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model and prefix of its functions.")
    ] = None,
    winograd_error: Annotated[
        float | None,
        typer.Option(
            "--winograd-error",
            min=0.0,
            help="What convolutions may round for speed, of their largest output; 0: none.",
        ),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compile anew, and keep nothing.")
    ] = False,
    costs: Annotated[
        bool, typer.Option("--report", help="What each pass and each kernel cost to compile.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compile a model into one self-contained shared library."""
    console = Console(quiet, as_json)
    with ending(console):
        from heddle.cli.models import run_compile
        from heddle.cli.values import parse_shapes

        run_compile(
            model,
            console,
            output=output,
            header=header,
            target=target,
            precision=precision,
            shapes=parse_shapes(shape or ()),
            num_threads=num_threads,
            name=name,
            winograd_error=winograd_error,
            cache=not no_cache,
            costs=costs,
        )


@app.command("run")
def _run(
    model: Model,
    inputs: InputList = None,
    outputs: Annotated[
        Path | None, typer.Option("--outputs", help="The .npz file to write.")
    ] = None,
    random: Annotated[
        int | None,
        typer.Option("--random", min=0, help="Seed of random inputs where no file gives any."),
    ] = None,
    dim: DimList = None,
    target: TargetName = "native",
    precision: Precision = "float32",
    shape: ShapeList = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a model on inputs from files, or on random ones."""
    console = Console(quiet, as_json)
    with ending(console):
        from heddle.cli.models import run_model
        from heddle.cli.values import parse_dims, parse_shapes

        run_model(
            model,
            console,
            inputs=inputs or (),
            outputs=outputs,
            seed=random,
            sizes=parse_dims(dim or ()),
            target=target,
            precision=precision,
            shapes=parse_shapes(shape or ()),
            threads=threads,
        )


@app.command("bench")
def _bench(
    model: Model,
    inputs: InputList = None,
    random: Annotated[
        int, typer.Option("--random", min=0, help="Seed of the inputs that no file gives.")
    ] = 0,
    dim: DimList = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of 50 ms each.")] = 20,
    profile: Annotated[bool, typer.Option("--profile", help="The time of each kernel.")] = False,
    no_peak: Annotated[
        bool, typer.Option("--no-peak", help="Do not measure what the machine can do.")
    ] = False,
    target: TargetName = "native",
    precision: Precision = "float32",
    shape: ShapeList = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a model: median, spread, GFLOP/s, share of the machine's peak."""
    console = Console(quiet, as_json)
    with ending(console):
        from heddle.cli.bench import run_bench
        from heddle.cli.values import parse_dims, parse_shapes

        run_bench(
            model,
            console,
            inputs=inputs or (),
            seed=random,
            sizes=parse_dims(dim or ()),
            target=target,
            precision=precision,
            shapes=parse_shapes(shape or ()),
            threads=threads,
            rounds=rounds,
            profile=profile,
            peak=not no_peak,
        )


@app.command("inspect")
def _inspect(
    model: Source,
    after: Annotated[
        str | None, typer.Option("--pass", help="The module after this pass; see --list.")
    ] = None,
    kernel: Annotated[str | None, typer.Option("--kernel", help="One kernel only.")] = None,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="Each kernel before, its schedule, and after.")
    ] = False,
    asm: Annotated[bool, typer.Option("--asm", help="The assembly of each kernel.")] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="The names of the passes and of the kernels.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page of one kernel: its stages, code, roofline."),
    ] = None,
    target: TargetName = "native",
    precision: Precision = "float32",
    shape: ShapeList = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Print a model inside the compiler: after any pass, kernel by kernel, down to assembly."""
    console = Console(quiet, as_json)
    with ending(console):
        from heddle.cli.inspect import run_inspect
        from heddle.cli.values import parse_shapes

        run_inspect(
            model,
            console,
            target=target,
            precision=precision,
            shapes=parse_shapes(shape or ()),
            after=after,
            kernel=kernel,
            schedule=schedule,
            assembly=asm,
            listing=listing,
            html=html,
        )


@app.command("coverage")
def _coverage(
    model: Source,
    shape: ShapeList = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Tell what of a model can be imported, node by node; exit code 1 when not all of it can."""
    console = Console(quiet, as_json)
    with ending(console):
        from heddle.cli.values import parse_shapes
        from heddle.frontend import coverage

        found = coverage(model, shapes=parse_shapes(shape or ()) or None)
        console.result(str(found), found.to_json())
        if not found.complete:
            raise typer.Exit(1)


@app.command("compare")
def _compare(
    model: Comparable,
    against: Annotated[
        str,
        typer.Option(
            "--against",
            help="onnxruntime, or torch for programs of PyTorch; interpreter: numpy, operator by "
            "operator; float32: its own layers.",
        ),
    ] = "onnxruntime",
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="With --against float32: the model that was quantised."),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Every layer, not the outputs alone; float32 always does."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw the errors of the layers into this SVG file."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0,
            help="Of the largest value of an output; 1e-4 by default, 0.1 with --against float32.",
        ),
    ] = None,
    inputs: InputList = None,
    random: Annotated[
        int, typer.Option("--random", min=0, help="Seed of the inputs that no file gives.")
    ] = 0,
    dim: DimList = None,
    target: TargetName = "native",
    precision: Precision = "float32",
    shape: ShapeList = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare the values of a model with those of another implementation."""
    if against not in ("onnxruntime", "interpreter", "torch", "float32"):
        raise typer.BadParameter(
            f"--against {against}: expected onnxruntime, interpreter, torch or float32"
        )
    if reference is not None and against != "float32":
        raise typer.BadParameter("--reference goes with --against float32")
    console = Console(quiet, as_json)
    with ending(console):
        from heddle.cli.compare import run_compare, run_compare_layers
        from heddle.cli.values import parse_dims, parse_shapes

        common = {
            "inputs": inputs or (),
            "seed": random,
            "sizes": parse_dims(dim or ()),
            "target": target,
            "precision": precision,
            "shapes": parse_shapes(shape or ()),
        }
        default = 0.1 if against == "float32" else 1e-4
        common["tolerance"] = default if tolerance is None else tolerance
        if layers or plot is not None or against == "float32":
            run_compare_layers(
                model, console, against=against, reference=reference, plot=plot, **common
            )
        else:
            run_compare(model, console, against=against, **common)


@app.command("targets")
def _targets(as_json: Json = False) -> None:
    """List what code can be generated for."""
    console = Console(as_json=as_json)
    with ending(console):
        from heddle.cli.targets import run_targets

        run_targets(console)


@app.command("doctor")
def _doctor(quiet: Quiet = False, as_json: Json = False) -> None:
    """Tell what is installed, what works, and what to do about the rest."""
    console = Console(quiet, as_json)
    with ending(console):
        from heddle.cli.doctor import run_doctor

        run_doctor(console)
