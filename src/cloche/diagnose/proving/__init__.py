"""Counterfactual replays: a run that broke trained again with one change, to see whether it breaks again."""
