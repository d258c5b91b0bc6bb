"""What a policy is: networks, normaliser, checkpoint, agent."""
