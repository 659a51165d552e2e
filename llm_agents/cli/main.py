"""The command ``llm-agents``: what can be asked of it, and which mistakes of its user are told in a line."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from llm_agents.cli import commands
from llm_agents.runtime.errors import UserError

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


class _OldOption(argparse.Action):
    """Take an option under the name of the version before, with a warning."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        print(f"llm-agents: {option_string} is called --{self.dest} now", file=sys.stderr)
        setattr(namespace, self.dest, values)


class _HelpOnConfig(argparse.Action):
    """Show the help of a command, and of every field of its config where one was named before."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Namespace, *_: Any) -> None:
        parser.print_help()
        if namespace.config is not None:
            commands.print_fields(namespace)
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message} (see {self.prog} --help)")


def _parse(arguments: list[str], options: Namespace) -> None:
    """Read the command line into ``options``."""
    parser = _Parser("llm-agents", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    adders = (_add_train, _add_evaluate, _add_compare, _add_report, _add_envs, _add_collect, _add_doctor, _add_encoder)
    for add in adders:
        add(parsers)
    takes_overrides = arguments[:1] in (["train"], ["collect"])
    own, overrides = _split_overrides(arguments) if takes_overrides else (arguments, [])
    for command in parsers.choices.values():
        command.set_defaults(arguments=arguments, overrides=overrides)
    _, rest = parser.parse_known_args(own, options)
    if rest:
        raise UserError(_unknown_argument(rest[0], options.parser))


def _add_command(parsers: Any, name: str, command: Any, help: str, **more: Any) -> argparse.ArgumentParser:
    parser = parsers.add_parser(
        name,
        help=help,
        description=help,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )
    parser.set_defaults(command=command, parser=parser)
    return parser


def _add_train(parsers: Any) -> None:
    parser = _add_command(
        parsers,
        "train",
        commands.train,
        "train by a config, evaluate, and write a report",
        usage="llm-agents train CONFIG [--run DIR] [--resume] [--section.field VALUE ...]\n"
        "       llm-agents train CONFIG --help",
        epilog="Any field of the config can be changed: --policy.num_steps 100. CONFIG --help says what each means.\n"
        "The run's folder holds the resolved config.yaml. Ctrl-C leaves a checkpoint; --resume goes on from there.",
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=_HelpOnConfig, nargs=0, help="show this; after CONFIG, also its fields")
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, such as configs/kalm/clevr_robot.yaml")
    parser.add_argument("--run", metavar="DIR", help="folder of the run (default: runs/<recipe>-<config>-<n>)")
    parser.add_argument("--resume", action="store_true", help="continue the run; start it if there is none")


def _add_evaluate(parsers: Any) -> None:
    parser = _add_command(
        parsers, "evaluate", commands.evaluate, "success rates of a run's agents on goals they never saw"
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, such as runs/kalm-clevr_robot-1")
    parser.add_argument("--split", help="train, rephrase, easy or hard (default: all that the recipe shows)")
    parser.add_argument("--wordings", dest="phrasings", action=_OldOption, help=argparse.SUPPRESS)
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


def _add_compare(parsers: Any) -> None:
    parser = _add_command(
        parsers, "compare", commands.compare, "several runs, one a seed, as one result with intervals"
    )
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


def _add_report(parsers: Any) -> None:
    parser = _add_command(parsers, "report", commands.report, "write a run's report.html anew and print where it is")
    parser.add_argument("run", metavar="RUN", help="folder of a run")


def _add_envs(parsers: Any) -> None:
    parser = _add_command(parsers, "envs", commands.list_envs, "list the installed environments, or check one")
    checks = parser.add_subparsers(title="commands", metavar="[COMMAND]")
    check = _add_command(checks, "check", commands.check_env, "check that an environment keeps the contract")
    check.add_argument("id", metavar="ID", help="such as ClevrRobot-v0, or module:Name-v0")


def _add_collect(parsers: Any) -> None:
    parser = _add_command(
        parsers,
        "collect",
        commands.collect,
        "play episodes into a store that can be learned from and shared",
        usage="llm-agents collect CONFIG [--field VALUE ...]",
        epilog="Any field of the config can be changed: --num_episodes 100 --out runs/episodes.\n"
        "Whatever stops it, the same command goes on where it was.",
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=_HelpOnConfig, nargs=0, help="show this; after CONFIG, also its fields")
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, such as configs/collect/clevr_robot.yaml")


def _add_doctor(parsers: Any) -> None:
    _add_command(parsers, "doctor", commands.doctor, "check this machine and installation, one line each")


def _add_encoder(parsers: Any) -> None:
    parser = _add_command(parsers, "encoder", commands.encoder, "measure how well a text encoder tells goals apart")
    parser.add_argument("name", metavar="NAME", nargs="?", default="all-MiniLM-L6-v2", help="(default: %(default)s)")
    parser.add_argument("--env", metavar="ID", default="ClevrRobot-v0", help="whose goals (default: %(default)s)")


def _split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the ``--section.field value`` pairs wherever they stand."""
    own, overrides = [], []
    tokens = list(reversed(arguments))
    while tokens:
        token = tokens.pop()
        if not token.startswith("--") or token.partition("=")[0] in ("--run", "--resume", "--help", "-h"):
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
