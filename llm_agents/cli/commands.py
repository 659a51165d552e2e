"""What each command does. Each imports what it needs, so that ``--help`` and mistakes are quick."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from llm_agents.runtime.errors import UserError

if TYPE_CHECKING:
    from llm_agents.registry.recipes import Recipe
    from llm_agents.rollouts.panels import Panel
    from llm_agents.runtime.run import Run
    from llm_agents.runtime.settings import Settings


def train(options: Namespace) -> int:
    """Train by a config, from the start or from where a run was stopped; ends with the report."""
    from llm_agents.registry.recipes import load_config
    from llm_agents.runtime.settings import flatten

    name, config = load_config(options.config, options.overrides)
    run, recipe, config = _start_run(name, config, options)
    again = shlex.join(["llm-agents", "train", options.config, "--run", str(run.folder), "--resume"])
    options.stopped = f"stopped; go on with: {again}"
    run.record_command(["llm-agents", *options.arguments])
    print(f"run {run.folder}, recipe {run.recipe}")
    for key, value in flatten(config, only_changed=True).items():
        print(f"  {key}: {value}")
    recipe.run(config, run)
    print(f"report: {_write_report(run, recipe)}")
    return 0


def print_fields(options: Namespace) -> None:
    """Print every field of a config with its type, its value and what it means."""
    from llm_agents.cli.collect import CollectSettings
    from llm_agents.registry.recipes import load_config
    from llm_agents.runtime.config import parse_config, read_yaml
    from llm_agents.runtime.settings import field_help

    config: Settings
    if options.command is collect:
        config = parse_config(CollectSettings, read_yaml(options.config), options.config, options.overrides)
    else:
        _, config = load_config(options.config, options.overrides)
    print(f"\nfields, with their values by {options.config}:")
    for field in field_help(config):
        print(f"  --{field.key} {field.value if isinstance(field.value, str) else json.dumps(field.value)}")
        about = f"({field.kind}) {field.description}"
        print(textwrap.fill(about, 110, initial_indent=" " * 8, subsequent_indent=" " * 8))


def evaluate(options: Namespace) -> int:
    """Success rates of a run's agents on unseen goals, as a table and as JSON."""
    from llm_agents.evaluation.evaluate import evaluate_run
    from llm_agents.evaluation.results import column_as_json
    from llm_agents.evaluation.tables import results_table
    from llm_agents.runtime.config import parse_config
    from llm_agents.runtime.console import wide_console
    from llm_agents.runtime.parallel import WorkerSettings
    from llm_agents.runtime.run import write_atomically

    options.stopped = "stopped; the same command goes on where it was"
    given = {"num_workers": options.workers, "executor": options.executor, "ray_address": options.ray_address}
    workers = parse_config(WorkerSettings, given, options.parser.prog)
    run, recipe, config = _open_run(options.run)
    panels = _panels(options, recipe, config)
    if options.json:
        _require_writable(options.json)
    run.record_command(["llm-agents", *options.arguments])
    agents = options.agents or list(recipe.agents(run))
    results = evaluate_run(run, recipe, panels, agents, workers)
    wide_console().print(results_table(results, panels))
    if options.json:
        rows = [column_as_json(name, panel, results[name]) for name, panel in panels.items()]
        write_atomically(Path(options.json), json.dumps(rows[0] if len(rows) == 1 else rows, indent=1))
    return 0


def compare(options: Namespace) -> int:
    """Runs that differ in their seed as one result; or beside as many of another config."""
    from llm_agents.evaluation.compare import compare, contrast, read_results
    from llm_agents.evaluation.tables import contrast_tables, tables
    from llm_agents.registry.recipes import References, find_recipe
    from llm_agents.runtime.console import print_markdown, wide_console
    from llm_agents.runtime.run import Run

    if options.against and (options.baseline or options.oracle):
        raise UserError("--against pairs each agent with its namesake: leave out --baseline and --oracle")
    runs = [Run.open(folder) for folder in [*options.runs, *options.against]]
    results, count = read_results(runs, options.columns, options.by_family), len(options.runs)
    if options.against:
        shown = contrast_tables(contrast(results[:count], results[count:]), count)
    else:
        usual = find_recipe(runs[0].recipe).references(runs[0])
        references = References(options.baseline or usual.baseline, options.oracle or usual.oracle)
        shown = tables(compare(results, references), count)
    show = print_markdown if options.markdown else wide_console().print
    for table in shown:
        show(table)
    return 0


def report(options: Namespace) -> int:
    """Write report.html anew."""
    run, recipe, _ = _open_run(options.run)
    print(_write_report(run, recipe))
    return 0


def list_envs(options: Namespace) -> int:
    """A table of the installed environments; one that cannot be made says why."""
    from llm_agents.registry.environments import environments_table
    from llm_agents.runtime.console import wide_console

    table, broken = environments_table()
    wide_console().print(table)
    for env_id, reason in broken.items():
        print(f"{env_id} cannot be used: {reason}")
    return 0


def check_env(options: Namespace) -> int:
    """Whether an environment keeps the contract, and how fast it is."""
    from envs.check import LanguageEnvError, check_language_env
    from envs.check_speed import measure_speed
    from llm_agents.registry.environments import make_environment

    env = make_environment(options.id)
    try:
        check_language_env(env)
    except LanguageEnvError as error:
        print(error)
        return 1
    speed = measure_speed(env)
    print(
        f"{options.id}: ok\n{speed.steps_per_s:,.0f} steps/s and {speed.resets_per_s:,.0f} resets/s "
        "in one process, with texts, under random actions"
    )
    return 0


def collect(options: Namespace) -> int:
    """Play episodes into a store, from the start or from where that was stopped."""
    from llm_agents.cli.collect import CollectSettings, counts_table, run_collection
    from llm_agents.runtime.config import parse_config, read_yaml
    from llm_agents.runtime.console import wide_console

    options.stopped = "stopped; the same command goes on where it was"
    settings = parse_config(CollectSettings, read_yaml(options.config), options.config, options.overrides)
    store = run_collection(settings, shlex.join(["llm-agents", *options.arguments]))
    wide_console().print(counts_table(store))
    print(f"episodes: {store.folder}")
    return 0


def doctor(options: Namespace) -> int:
    """What is in place and what is not."""
    from llm_agents.cli.doctor import diagnose
    from llm_agents.runtime.console import wide_console

    return diagnose(wide_console())


def encoder(options: Namespace) -> int:
    """How well a text encoder's sentence embedding tells goals apart."""
    from llm_agents.cli.encoder import check_encoder
    from llm_agents.registry.environments import make_environment
    from llm_agents.runtime.console import wide_console

    check_encoder(options.name, make_environment(options.env).task, wide_console())
    return 0


def _start_run(name: str, config: Settings, options: Namespace) -> tuple[Run, Recipe, Settings]:
    """The run to train: a new one, or with ``--resume`` the one that is there."""
    from llm_agents.registry.recipes import find_recipe
    from llm_agents.runtime.run import Run

    folder = Path(options.run) if options.run else _default_folder(name, options)
    if options.resume and (folder / "config.yaml").exists():
        return _continue_run(folder, name, config, options)
    return Run.create(folder, name, config.model_dump(mode="json")), find_recipe(name), config


def _continue_run(folder: Path, name: str, asked: Settings, options: Namespace) -> tuple[Run, Recipe, Settings]:
    """An existing run with its own config; an override that contradicts that config is refused.

    Where work is spread may change, as no number depends on it.
    """
    from llm_agents.runtime.config import parse_config
    from llm_agents.runtime.parallel import WorkerSettings
    from llm_agents.runtime.settings import differences

    run, recipe, config = _open_run(folder)
    if run.recipe != name:
        raise UserError(f"{folder} was made by recipe {run.recipe!r}, but {options.config} is for {name!r}")
    where = str(folder / "config.yaml")
    wanted = parse_config(recipe.Config, run.config, where, options.overrides)
    for key, (stored, given) in differences(config, wanted).items():
        if key not in WorkerSettings.model_fields:
            raise UserError(
                f"--{key} {given} contradicts {where}, which says {stored}: leave it out, or choose another --run"
            )
    for key, (stored, given) in differences(wanted, asked).items():
        print(f"{key} stays {stored} as in {where}; {options.config} says {given}", file=sys.stderr)
    return run, recipe, wanted


def _default_folder(recipe: str, options: Namespace) -> Path:
    """``runs/<recipe>-<config>-<n>``: the last one there is with ``--resume``, else the next."""
    stem = f"{recipe}-{Path(options.config).stem}-"
    taken = [
        int(path.name.removeprefix(stem)) for path in Path("runs").glob(f"{stem}*") if path.name[len(stem) :].isdigit()
    ]
    last = max(taken, default=0)
    return Path("runs") / f"{stem}{last if options.resume and last else last + 1}"


def _open_run(folder: str | Path) -> tuple[Run, Recipe, Settings]:
    from llm_agents.registry.recipes import find_recipe
    from llm_agents.runtime.config import parse_config
    from llm_agents.runtime.run import Run

    run = Run.open(folder)
    recipe = find_recipe(run.recipe)
    return run, recipe, parse_config(recipe.Config, run.config, str(run.folder / "config.yaml"))


def _require_writable(path: str) -> None:
    """Found out before the work rather than after it."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).open("a").close()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def _write_report(run: Run, recipe: Recipe) -> Path:
    from llm_agents.report import write_report

    return write_report(run, recipe)


def _panels(options: Namespace, recipe: Recipe, config: Settings) -> dict[str, Panel]:
    """What ``evaluate`` is asked to judge on, by the name of the column."""
    from envs.goals import SPLITS
    from llm_agents.evaluation.evaluate import make_panels
    from llm_agents.rollouts.panels import Column, read_panel
    from llm_agents.rollouts.specs import PhrasingSubset

    task = recipe.make_env(config).task
    subset: PhrasingSubset = options.phrasings or "all"
    if options.panel:
        if any(value is not None for value in (options.phrasings, options.episodes, options.seed)):
            raise UserError(
                "--panel says which instructions and how many: leave out --phrasings, --episodes and --seed"
            )
        return {Path(options.panel).stem: read_panel(options.panel, task, options.split or "train")}
    if options.split:
        columns = [Column(options.split, options.split, subset)]
    elif options.phrasings:
        columns = [Column(split, split, subset) for split in SPLITS]
    else:
        columns = recipe.columns(config)
    size = 200 if options.episodes is None else options.episodes
    return make_panels(task, columns, size, options.seed or 0)
