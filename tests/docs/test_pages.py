"""What a visitor reads works: code runs, commands are understood, links and make targets lead somewhere."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from pathlib import Path

import pytest
from helpers.extras import need

from llm_agents.cli import commands, main
from llm_agents.cli.collect import CollectSettings
from llm_agents.registry.recipes import load_config
from llm_agents.runtime.config import parse_config, read_yaml
from llm_agents.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
}
PYTHON = {name: re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) for name, text in PAGES.items()}


def shown_commands() -> list[str]:
    """Every ``llm-agents`` command of the pages but those with parts that a shell or a reader would fill in."""
    found = set()
    for text in PAGES.values():
        text = text.replace("\\\n", " ")
        lines = re.findall(r"^(?:    )?(?:\.venv/bin/)?(llm-agents .*)$", text, re.M)
        lines += re.findall(r"`(llm-agents [^`]*[./-][^`]*)`", text)
        found |= {line.partition("#")[0].strip() for line in lines}
    return sorted(command for command in found if not re.search(r"[$*]", command))


@pytest.mark.parametrize("page", [name for name, blocks in PYTHON.items() if blocks])
def test_code_runs_block_after_block(page: str):
    names: dict[str, object] = {}
    for block in PYTHON[page]:
        if "minigrid" in block:
            need("minigrid")
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("command", shown_commands())
def test_commands_name_options_and_configs_that_exist(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    options = Namespace()
    if command.endswith("--help"):
        with pytest.raises(SystemExit, match="0"):
            main.main(shlex.split(command)[1:])
        return
    main._parse(shlex.split(command)[1:], options)
    if options.command is commands.train:
        try:
            load_config(options.config, options.overrides)
        except UserError as error:
            if "cannot be imported" not in str(error):
                raise
            pytest.skip(f"an extra is not installed: {error}")
    if options.command is commands.collect:
        parse_config(CollectSettings, read_yaml(options.config), options.config, options.overrides)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for text in PAGES.values() for name in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)}
    assert named <= targets
