"""Why a run went wrong: what its folder says of each step, and which of the known causes explains it."""
