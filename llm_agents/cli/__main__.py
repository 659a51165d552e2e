"""``python -m llm_agents.cli`` is the command ``llm-agents``."""

import sys

from llm_agents.cli.main import main

sys.exit(main())
