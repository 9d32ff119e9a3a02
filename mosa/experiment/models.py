"""What may stand in a config, as pydantic models; its schema and docs/configuration.md are made from them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from mosa.backbones.kinds import KINDS, NORMALIZATIONS
from mosa.data.formats import own_layouts
from mosa.data.metrics import METRICS
from mosa.data.task import AUGMENTATIONS, RESIZES
from mosa.experiment.declared import Declared, Name, OneOf, Seeds, Unique, option
from mosa.experiment.protocol import PRESETS, STAGES
from mosa.experiment.recipe import COMPILE, Recipe

DROPPABLE = {"droppable": True}  # entries that `null` in a later file removes


def _expected(what: str, fits: Any) -> BeforeValidator:
    """Refuse a value of another form in words; what is inside is validated as usual."""

    def check(value: Any) -> Any:
        if not fits(value):
            raise PydanticCustomError("expected", "expected", {"expected": what})
        return value

    return BeforeValidator(check)


_BRACES = _expected(
    "a path without braces, which Snakemake would read as wildcards",
    lambda value: not isinstance(value, str) or not set(value) & set("{}"),
)
_HOME = _expected(
    "a path that is written out, as nothing here replaces ~",
    lambda value: not isinstance(value, str) or not value.startswith("~"),
)
_YES_NO_AUTO = _expected(
    "`true`, `false` or `auto`", lambda value: isinstance(value, bool) or value == "auto"
)
Text = Annotated[str, Field(min_length=1)]
Place = Annotated[Text, _HOME]
Folder = Annotated[Place, _BRACES]


class DataFolders(Declared):
    """Folders of the benchmarks that lie on disk."""

    vtab1k: Place = option("data/vtab-1k", description="Folder with a folder for each task of VTAB-1k.")
    fgvc: Place = option("data/fgvc", description="Folder with the five FGVC archives.")
    general: Place = option(
        "data/general", description="Folder with cifar-100-python, fgvc-aircraft-2013b and food-101."
    )


class Paths(Declared):
    """Where things lie."""

    results: Folder = option(
        "results",
        description="Folder of this experiment: records, tables, plots and logs. Two experiments that give a "
        "variant different options need two folders.",
    )
    packs: Folder = option(
        "results/packs", description="Folder of the packed tasks, which all experiments share."
    )
    data: DataFolders = option(
        DataFolders(), description="Folders of the benchmarks that lie on disk, see docs/data.md."
    )


class Packing(Declared):
    """Packs of tasks that lie on disk."""

    limit_gib: float = option(
        64.0, gt=0, description="Largest pack in GiB; a task that needs more is decoded while training."
    )


class Keep(Declared):
    """What a run leaves beside its record. Nothing of it changes a result or repeats a run."""

    predictions: Annotated[bool | Literal["auto"], _YES_NO_AUTO] = option(
        "auto",
        description="Logits and labels of the evaluated split, from which tables of classes, confusions and "
        "agreement are made (docs/predictions.md); `auto`: where they take 50 MiB at most.",
    )
    model: bool = option(
        False, description="The tuned model as it is after merging, for `mosa predict` (docs/predictions.md)."
    )
    events: bool = option(
        False,
        description="TensorBoard events of every epoch: training loss and its terms, learning rate, and val "
        "where it is not trained on (docs/workflow.md); needs the extra `events`.",
    )
    val: bool = option(
        False,
        description="Metric and loss on val after every epoch, in the record, for the report's curves; only "
        "with `stage: selection`, where val is not trained on. It takes an evaluation per epoch.",
    )


class OwnTask(Declared):
    """Where the images of a task are, and how to prepare them."""

    layout: Annotated[str, OneOf(own_layouts)] = option(
        description="; ".join(f"`{name}`: {description}" for name, description in own_layouts().items()) + "."
    )
    root: Place = option(description="The folder, or the CSV file.")
    group: Name = option("own", description="Group of tasks that are averaged together.")
    resize: Literal[RESIZES] = option(
        "shorter",
        description="`direct`: straight to the square; `shorter`: the shorter side to 256/224 of the size, "
        "then a crop.",
    )
    augment: Literal[AUGMENTATIONS] = option(
        "none",
        description="While training: `crop_flip` takes a random crop and flips it at random; it needs resize "
        "`shorter`.",
    )
    metric: Annotated[str, OneOf(lambda: METRICS)] = option(
        "top1",
        description="The metric that tables report and `tune` chooses by; every record has all of them.",
    )


class BackboneEntry(Declared):
    """An architecture with its weights."""

    architecture: Text = option(description="Name of a timm architecture.")
    weights: Place = option(
        "builtin",
        description="`builtin` (shipped with the package), `random` (a control), a file, or `hub:` and a "
        "tag of timm's, such as hub:orig_in21k.",
    )
    kind: Literal[KINDS] = option("auto", description="Format of the file, see docs/weights.md.")
    image_size: Annotated[int, Field(ge=1)] | None = option(
        None, description="Side of the square input in pixels; null: 32 for mosa_vit_micro, otherwise 224."
    )
    normalization: Literal["protocol", "weights", *NORMALIZATIONS] = option(
        "protocol",
        description="Statistics of the input; `protocol`: as the preset says, `weights`: as the weights were "
        "trained, `imagenet`: its mean and standard deviation, `inception`: 0.5 and 0.5, `clip`: CLIP's, "
        "`satellite`: those of DINOv3's satellite images, `none`: pixels in 0 ... 1.",
    )


class Overrides(Declared):
    """Overrides for one task, or benchmark."""

    options: dict[str, Any] = option({}, description="Overrides of the variant's options.")
    training: dict[str, Any] = option({}, description="Overrides of the variant's recipe.")


def _shown(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise PydanticCustomError("expected", "expected", {"expected": "one line of text that can be read"})
    return " ".join(text.split())


class Variant(Declared):
    """A method with options."""

    display_name: Annotated[str, AfterValidator(_shown)] | None = option(
        None,
        description="Name that tables, plots and report show, such as LoRA (r=8), each once; null: its key. "
        "Changing it repeats no run.",
    )
    method: str = option(description="Name of the method (see `mosa methods`).")
    options: dict[str, Any] = option({}, description="Options of the method; see docs/methods.md.")
    training: dict[str, Any] = option(
        {}, description="Overrides of the recipe for this variant, by the keys of `training`."
    )
    by_task: dict[str, Overrides] = option(
        {},
        json_schema_extra=DROPPABLE,
        description="Overrides for single tasks, by their full names, such as fgvc/cub, or for all of a "
        "benchmark, by its name. Those for tasks without runs change nothing; `null` drops one that another "
        "config defines.",
    )


class Range(Declared):
    """Values between two ends."""

    low: float = option(description="Smallest value.")
    high: float = option(description="Largest value.")
    log: bool = option(False, description="Whether to sample evenly in the logarithm.")


Space = Annotated[
    Annotated[list[Any], Field(min_length=1), Unique, Tag("<list>")] | Annotated[Range, Tag("<range>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else "<range>"),
    _expected(
        "a list of values, or a range such as {low: 0.001, high: 0.1, log: true}",
        lambda value: isinstance(value, list | dict),
    ),
]


class SearchSpace(Declared):
    """Values to try, by key."""

    training: dict[str, Space] = option(
        {}, description="Of the recipe, such as lr: a list, or a range {low, high, log}."
    )
    options: dict[str, Space] = option(
        {}, description="Of the method, such as scale: a list, or a range {low, high, log}."
    )


def _not_empty(space: Any) -> Any:
    if not space.training and not space.options:
        raise PydanticCustomError("too_short", "empty")
    return space


class Halving(Declared):
    """Successive halving."""

    min_epochs: int = option(
        ge=1,
        description="Epochs of the first round; each round is trained anew, with a schedule of its own "
        "length.",
    )
    factor: int = option(
        2,
        ge=2,
        description="One in so many trials goes on, for so many times the epochs, until the full length.",
    )


class Tune(Declared):
    """How hyper-parameters are chosen."""

    search: Literal["grid", "random", "sobol"] = option(
        "grid",
        description="`grid`: every combination of the lists; `random`, `sobol`: a seeded sample of lists and "
        "ranges.",
    )
    trials: Annotated[int, Field(ge=1)] | None = option(
        None,
        description="Trials of each variant, for `random` and `sobol`; a grid has as many as its lists make.",
    )
    seed: int = option(0, ge=0, description="Seed of the sample.")
    seeds: Seeds = option([0], description="Seeds that every trial is trained with; their mean counts.")
    folds: Annotated[int, Field(ge=2)] | None = option(
        None,
        description="Parts of train + val: every trial is trained once for each, on the others, and compared "
        "on it; null: trained on train and compared on val.",
    )
    extend: int = option(
        0,
        ge=0,
        description="Trials by which a grid may grow: while the best value of a number is its smallest or "
        "largest, the next one in the same ratio is tried, with the best of the others. With `per: task`.",
    )
    per: Literal["task", "benchmark"] = option(
        "task",
        description="What a choice is made for: each task, or a benchmark by the mean over its tasks.",
    )
    halving: Halving | None = option(
        None,
        description="Successive halving, with `per: task`: all trials for a few epochs, the best of them for "
        "more.",
    )
    variants: dict[str, Annotated[SearchSpace, AfterValidator(_not_empty)]] = option(
        min_length=1,
        json_schema_extra=DROPPABLE,
        description="What is tried for each variant; every variant has an entry. Variants of a sweep take "
        "the choice of the one they are made from. `null` drops one that another config file defines.",
    )


Tasks = Annotated[
    Annotated[Literal["all"], Tag("<all>")]
    | Annotated[list[str], Field(min_length=1), Unique, Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else "<all>"),
    _expected("`all` or a list of tasks", lambda value: value == "all" or isinstance(value, list)),
]


class Experiment(Declared):
    """Which runs exist: every benchmark task x backbone x variant x seed is one run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = option(
        description="Name of the experiment, for its readers."
    )
    protocol: Literal[tuple(PRESETS)] = option(
        "demo",
        description="Preset of normalisation and resizing (docs/protocols.md), written into every record; "
        "results of different protocols never share a table.",
    )
    stage: Literal[tuple(STAGES)] = option(
        "final",
        description="`final` trains on train + val (FGVC: on train) and evaluates on test, once, after the "
        "last epoch; `selection` trains on train and evaluates on val, and never opens test. Give a "
        "selection experiment its own `paths.results`.",
    )
    device: Literal["cpu", "cuda"] = option("cpu", description="What trains: `cuda` gives every run a GPU.")
    runs_per_gpu: int = option(
        1, ge=1, description="Runs that share a GPU of a workstation with several; see docs/cluster.md."
    )
    compile: Literal[COMPILE] = option(
        "none",
        description="`blocks`: torch.compile of every block; `step_graph`: nothing is compiled, and whole "
        "training steps are replayed as CUDA graphs. Changes results by float error at most, and repeats no "
        "run; see docs/performance.md for what it gains.",
    )
    channels_last: bool = option(
        False,
        description="Keep images and the weights of convolutions with channels last. Changes results by "
        "float error at most, and repeats no run.",
    )
    gradient_checkpointing: bool = option(
        False,
        description="Compute activations again in the backward instead of keeping them: large backbones fit "
        "into less memory, for about half as much time again. Results are the same, and no run is repeated.",
    )
    plugins: Annotated[list[Text], Unique] = option(
        [],
        description="Your own code: files, relative to the config file that names them, and modules, with "
        "methods, backbones, data layouts, metrics, tables and plots; see docs/plugins.md.",
    )
    paths: Paths = option(Paths(), description="Where things lie, relative to the working directory.")
    packing: Packing = option(Packing(), description="Packs of tasks that lie on disk.")
    keep: Keep = option(
        Keep(),
        description="What runs leave beside their records. Switched on later, it repeats no run: `mosa plan` "
        "says which runs lack it.",
    )
    tasks: dict[Name, OwnTask] = option(
        {},
        json_schema_extra=DROPPABLE,
        description="Your own tasks, by name; they form the benchmark `own`. `null` drops one that another "
        "config file defines.",
    )
    benchmarks: dict[str, Tasks] = option(
        min_length=1, description="Tasks by benchmark (see `mosa tasks`): a list of names, or `all`."
    )
    backbones: dict[Name, BackboneEntry] = option(
        min_length=1, json_schema_extra=DROPPABLE, description="Backbones by name."
    )
    seeds: Seeds = option(
        description="Seeds; each seeds initial values, order, dropout, partition and routing of its runs."
    )
    training: Recipe = option(
        Recipe(), description="The recipe of all variants. A variant may override any of it."
    )
    training_by_task: dict[str, dict[str, Any]] = option(
        {},
        json_schema_extra=DROPPABLE,
        description="Overrides of the recipe of all variants for the tasks of a benchmark, by its name, or "
        "for single tasks, by their full names; what a variant says itself counts more. `null` drops one "
        "that another config file defines.",
    )
    variants: dict[Name, Variant] = option(
        min_length=1,
        json_schema_extra=DROPPABLE,
        description="The rows of the comparison, by name, in the order of the table. `null` drops one that "
        "another config file defines.",
    )
    reference: str | None = option(
        None,
        description="The variant that tables, plots and report compare the others with; null: adapter, or "
        "without it the first. Changing it repeats no run.",
    )
    tune: Tune | None = option(
        None,
        description="Choose hyper-parameters before the final runs: trained on train, compared on val, test "
        "never opened; the same number of trials for every variant. See docs/tuning.md.",
    )
    sweeps: dict[
        Name,
        Annotated[
            dict[
                str,
                Annotated[
                    dict[str, Annotated[list[Any], Field(min_length=1), Unique]],
                    Field(min_length=1, max_length=1),
                ],
            ],
            Field(min_length=1, json_schema_extra=DROPPABLE),
        ],
    ] = option(
        {},
        json_schema_extra=DROPPABLE,
        description="Variants derived from others by changing one option, for the scaling plot. Sweep: "
        "{variant: {option: [values]}}; each value makes a variant named like adapter_bottleneck4, and a "
        "value that the variant has itself makes none. `null` drops a sweep, or one variant of it, that "
        "another config file defines.",
    )
