"""Simulators behind RoboTwin's task interface, episode files, demonstrations."""
