"""The report of a run: one HTML file that needs nothing beside it."""

from llm_agents.report.write import write_report

__all__ = ["write_report"]
