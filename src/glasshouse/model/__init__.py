"""Parts as values, the modules they build, sites, edits, plans, and checkpoints in and out."""

from glasshouse.model.activations import Shifted, gain
from glasshouse.model.attention import Attention, Mixer
from glasshouse.model.bodies import Block, Body, ParallelBlock, Stack
from glasshouse.model.edits import Edit
from glasshouse.model.huggingface import load_network, save_network
from glasshouse.model.lm import LM, Head, Unembed
from glasshouse.model.maps import GLU, MLP, ClampedGLU, Map
from glasshouse.model.masks import Causal, Full, Mask, Window
from glasshouse.model.moe import MoE
from glasshouse.model.network import Network
from glasshouse.model.norms import AllHeads, LayerNorm, NoNorm, Norm, RectifiedNorm, RMSNorm, ZeroCenteredRMSNorm
from glasshouse.model.part import Part, part_from_dict
from glasshouse.model.plan import Plan
from glasshouse.model.positions import EmbeddingPosition, Learned, NoPosition, Position, RoPE
from glasshouse.model.result import Result
from glasshouse.model.scalings import DynamicScaling, LinearScaling, Llama3Scaling, LongRoPE, Scaling, YaRN
from glasshouse.model.scored import ScoredAttention
from glasshouse.model.sites import Layers, Site, Sites, site
from glasshouse.model.stored import Activations

__all__ = [
    "GLU",
    "LM",
    "MLP",
    "Activations",
    "AllHeads",
    "Attention",
    "Block",
    "Body",
    "Causal",
    "ClampedGLU",
    "DynamicScaling",
    "Edit",
    "EmbeddingPosition",
    "Full",
    "Head",
    "LayerNorm",
    "Layers",
    "Learned",
    "LinearScaling",
    "Llama3Scaling",
    "LongRoPE",
    "Map",
    "Mask",
    "Mixer",
    "MoE",
    "Network",
    "NoNorm",
    "NoPosition",
    "Norm",
    "ParallelBlock",
    "Part",
    "Plan",
    "Position",
    "RMSNorm",
    "RectifiedNorm",
    "Result",
    "RoPE",
    "Scaling",
    "ScoredAttention",
    "Shifted",
    "Site",
    "Sites",
    "Stack",
    "Unembed",
    "Window",
    "YaRN",
    "ZeroCenteredRMSNorm",
    "gain",
    "load_network",
    "part_from_dict",
    "save_network",
    "site",
]
