"""Environments with goals in words. Importing this package registers them with Gymnasium."""

import gymnasium

gymnasium.register("ClevrRobot-v0", entry_point="envs.clevr_robot:make")
