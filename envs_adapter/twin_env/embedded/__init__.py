"""The embedded SAPIEN simulator: RoboTwin's task interface, no assets, rendered on a CPU."""
