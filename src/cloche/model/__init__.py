"""Parts as values, the modules they build, sites, edits, plans, and checkpoints in and out."""

from cloche.model.activations import Shifted, gain
from cloche.model.attention import Attention, Mixer
from cloche.model.bodies import Block, Body, ParallelBlock, Stack
from cloche.model.edits import Edit
from cloche.model.huggingface import load_network, save_network
from cloche.model.lm import LM, Head, Unembed
from cloche.model.maps import GLU, MLP, ClampedGLU, Map
from cloche.model.masks import Causal, Full, Mask, Window
from cloche.model.moe import MoE
from cloche.model.network import Network
from cloche.model.norms import AllHeads, LayerNorm, NoNorm, Norm, RectifiedNorm, RMSNorm, ZeroCenteredRMSNorm
from cloche.model.part import Part, part_from_dict
from cloche.model.plan import Plan
from cloche.model.positions import EmbeddingPosition, Learned, NoPosition, Position, RoPE
from cloche.model.result import Result
from cloche.model.scalings import DynamicScaling, LinearScaling, Llama3Scaling, LongRoPE, Scaling, YaRN
from cloche.model.scored import ScoredAttention
from cloche.model.sites import Layers, Site, Sites, site
from cloche.model.stored import Activations

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
