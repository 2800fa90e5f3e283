"""A person at a terminal beside the running agent: what they see, what they may press and say."""
