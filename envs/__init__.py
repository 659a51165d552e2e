"""Environments with goals in words. Importing this package registers them with Gymnasium."""

import gymnasium

gymnasium.register("BabyAIRoom-v0", entry_point="envs.babyai:make_room")
gymnasium.register("BabyAIText-v0", entry_point="envs.babyai:make_text")
gymnasium.register("ClevrRobot-v0", entry_point="envs.clevr_robot:make")
gymnasium.register("MetaWorld-v0", entry_point="envs.meta_world:make")
