"""Robots to act on: their configuration files, and one that everyone has (`envs.robots.sim`)."""
