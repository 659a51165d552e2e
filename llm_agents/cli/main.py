"""The command ``llm-agents``. Each command imports what it needs, so that ``--help`` and mistakes are quick."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_agents.runtime.errors import UserError

if TYPE_CHECKING:
    from llm_agents.registry.recipes import Recipe
    from llm_agents.rollouts.panels import Panel
    from llm_agents.runtime.config import Settings
    from llm_agents.runtime.run import Run


DESCRIPTION = """\
Train agents that reach goals given in natural language, and judge them on goals they have never seen.

  llm-agents doctor                                    is everything in place?
  llm-agents envs                                      what can be trained in?
  llm-agents collect configs/collect/clevr_robot.yaml  play episodes into a store
  llm-agents train configs/kalm/clevr_robot.yaml       train, evaluate, write a report
  llm-agents evaluate runs/kalm-clevr_robot-1          success rates on unseen goals
"""


MAX_WORKERS = 8  # by default; each holds a copy of torch and of the agents, some 0.5 GB


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for a check that fails, 2 for a user's mistake, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = Namespace(stopped="stopped")
    try:
        _parse(arguments, options)
        return options.command(options) or 0
    except KeyboardInterrupt:
        print(f"\nllm-agents: {options.stopped}", file=sys.stderr)
        return 130
    except ValueError as error:
        # The errors that envs/ defines, such as UnknownGoal and CorruptStore, are about what the user gave, too.
        if not (isinstance(error, UserError) or type(error).__module__.startswith("envs.")):
            raise
        print(f"llm-agents: {error}", file=sys.stderr)
        return 2


def train(options: Namespace) -> int:
    """Train by a config, from the start or from where a run was stopped; ends with the report."""
    from llm_agents.registry.recipes import load_config
    from llm_agents.runtime.config import flatten

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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message} (see {self.prog} --help)")


def _parse(arguments: list[str], options: Namespace) -> None:
    """Read the command line into ``options``."""
    parser = _Parser("llm-agents", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    adders = (_add_train, _add_evaluate, _add_compare, _add_report, _add_envs, _add_collect, _add_doctor, _add_encoder)
    for add in adders:
        add(commands)
    takes_overrides = arguments[:1] in (["train"], ["collect"])
    own, overrides = _split_overrides(arguments) if takes_overrides else (arguments, [])
    _, rest = parser.parse_known_args(own, options)
    if rest:
        raise UserError(_unknown_argument(rest[0], options.parser))
    options.arguments, options.overrides = arguments, overrides


def _add_command(commands: Any, name: str, command: Any, help: str, **more: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )
    parser.set_defaults(command=command, parser=parser)
    return parser


def _add_train(commands: Any) -> None:
    parser = _add_command(
        commands,
        "train",
        train,
        "train by a config, evaluate, and write a report",
        usage="llm-agents train CONFIG [--run DIR] [--resume] [--section.field VALUE ...]",
        epilog="Any field of the config can be changed: --policy.num_steps 100. The run's folder holds the resolved\n"
        "config.yaml with every field. Ctrl-C leaves a checkpoint; --resume goes on from there.",
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, such as configs/kalm/clevr_robot.yaml")
    parser.add_argument("--run", metavar="DIR", help="folder of the run (default: runs/<recipe>-<config>-<n>)")
    parser.add_argument("--resume", action="store_true", help="continue the run; start it if there is none")


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(commands, "evaluate", evaluate, "success rates of a run's agents on goals they never saw")
    parser.add_argument("run", metavar="RUN", help="folder of a run, such as runs/kalm-clevr_robot-1")
    parser.add_argument("--split", help="train, rephrase, easy or hard (default: all that the recipe shows)")
    parser.add_argument("--phrasings", help="all, given or new: which phrasings of a goal are used (default: all)")
    parser.add_argument("--episodes", type=int, help="episodes an agent and a split (default: 200)")
    parser.add_argument("--seed", type=int, help="seed of the panel: other goals, words and starts (default: 0)")
    parser.add_argument("--agents", nargs="+", metavar="NAME", help="only these agents (default: all)")
    parser.add_argument("--panel", metavar="FILE", help='your own goals: JSON rows {"goal": id, "instruction": text}')
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    parser.add_argument(
        "--workers", type=int, default=workers, help="processes; numbers do not depend on it (default: %(default)s)"
    )
    parser.add_argument(
        "--executor", choices=("processes", "ray"), default="processes", help="who runs them (default: %(default)s)"
    )
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="auto or HOST:PORT of a Ray cluster (default: Ray on this machine)"
    )


def _add_compare(commands: Any) -> None:
    parser = _add_command(commands, "compare", compare, "several runs, one a seed, as one result with intervals")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs judged on the same panels")
    parser.add_argument("--baseline", metavar="NAME", help="agent to be paired with (default: the recipe's)")
    parser.add_argument("--oracle", metavar="NAME", help="agent of which fractions are given (default: the recipe's)")
    parser.add_argument(
        "--against",
        metavar="RUN",
        nargs="+",
        default=[],
        help="as many runs of another config, in the same order of seeds: each agent is paired with its namesake",
    )
    parser.add_argument("--columns", metavar="NAME", nargs="+", default=[], help="show only these (default: all)")
    parser.add_argument("--by-family", action="store_true", help="a column for each kind of goal")
    parser.add_argument("--markdown", action="store_true", help="tables for a README or a paper")


def _add_report(commands: Any) -> None:
    parser = _add_command(commands, "report", report, "write a run's report.html anew and print where it is")
    parser.add_argument("run", metavar="RUN", help="folder of a run")


def _add_envs(commands: Any) -> None:
    parser = _add_command(commands, "envs", list_envs, "list the installed environments, or check one")
    checks = parser.add_subparsers(title="commands", metavar="[COMMAND]")
    check = _add_command(checks, "check", check_env, "check that an environment keeps the contract")
    check.add_argument("id", metavar="ID", help="such as ClevrRobot-v0, or module:Name-v0")


def _add_collect(commands: Any) -> None:
    parser = _add_command(
        commands,
        "collect",
        collect,
        "play episodes into a store that can be learned from and shared",
        usage="llm-agents collect CONFIG [--field VALUE ...]",
        epilog="Any field of the config can be changed: --num_episodes 100 --out runs/episodes.\n"
        "Whatever stops it, the same command goes on where it was.",
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, such as configs/collect/clevr_robot.yaml")


def _add_doctor(commands: Any) -> None:
    _add_command(commands, "doctor", doctor, "check this machine and installation, one line each")


def _add_encoder(commands: Any) -> None:
    parser = _add_command(commands, "encoder", encoder, "measure how well a text encoder tells goals apart")
    parser.add_argument("name", metavar="NAME", nargs="?", default="all-MiniLM-L6-v2", help="(default: %(default)s)")
    parser.add_argument("--env", metavar="ID", default="ClevrRobot-v0", help="whose goals (default: %(default)s)")


def _split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the ``--section.field value`` pairs wherever they stand."""
    own, overrides = [], []
    tokens = list(reversed(arguments))
    while tokens:
        token = tokens.pop()
        if not token.startswith("--") or token.partition("=")[0] in ("--run", "--resume", "--help"):
            own.append(token)
            continue
        overrides.append(token)
        if "=" not in token and tokens and not tokens[-1].startswith("--"):
            overrides.append(tokens.pop())
    return own, overrides


def _unknown_argument(argument: str, parser: argparse.ArgumentParser) -> str:
    known = re.findall(r"--[a-z]+", parser.format_usage())
    near = difflib.get_close_matches(argument, known, n=1)
    hint = f": did you mean {near[0]}?" if near else ""
    return f"unexpected {argument!r}{hint} (see {parser.prog} --help)"


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
    from llm_agents.runtime.config import differences, parse_config
    from llm_agents.runtime.parallel import WorkerSettings

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
