"""The models of the family, as they are published. Another one is one more line of PUBLISHED_MODELS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from e2v_cli.models.config import parse_feature_encoder_spec
from e2v_cli.network.config import NetworkConfig
from e2v_cli.options import HubName

SAMPLE = "sample"
"""The name of the toy model in the package."""

HUB_TITLES: dict[HubName, str] = {"ms": "ModelScope", "hf": "Hugging Face"}

PAGES: dict[HubName, str] = {"ms": "https://www.modelscope.cn/models", "hf": "https://huggingface.co"}
"""Address of a model's card on each hub, before the model's id."""

LICENCES: dict[HubName, str] = {"hf": "model-license (https://github.com/alibaba-damo-academy/FunASR)"}
"""The licence that the family's cards name on a hub, and their link; ModelScope's are not known here."""

CODE = "https://github.com/ddlBoJack/emotion2vec"
"""The authors' own code."""

PAPER = """\
@inproceedings{ma2024emotion2vec,
  title         = {{emotion2vec}: Self-Supervised Pre-Training for Speech Emotion Representation},
  author        = {Ma, Ziyang and Zheng, Zhisheng and Ye, Jiaxin and Li, Jinchao and Gao, Zhifu
                   and Zhang, Shiliang and Chen, Xie},
  booktitle     = {Findings of the Association for Computational Linguistics: {ACL} 2024},
  pages         = {15747--15760},
  year          = {2024},
  doi           = {10.18653/v1/2024.findings-acl.931},
  eprint        = {2312.15185},
  archiveprefix = {arXiv}
}
"""
"""The BibTeX entry of the paper."""

OWNERS: dict[HubName, str] = {"ms": "iic", "hf": "emotion2vec"}
"""The owner of the family on each hub: the first part of a model's id."""

BASE = NetworkConfig(
    conv_layers=parse_feature_encoder_spec("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"),
    conv_norm="layer",
    embed_dim=768,
    num_heads=12,
    prenet_depth=4,
    depth=8,
    mlp_dim=3072,
    norm_eps=1e-5,
    norm_affine=True,
    layer_norm_first=False,
    normalize=True,
    num_extra_tokens=10,
    conv_pos_depth=5,
    conv_pos_kernel=19,
    conv_pos_groups=16,
    conv_pos_pre_ln=False,
    num_alibi_heads=12,
    alibi_scales=(1, 12),
)
"""The shape of the network of about 90 million weights."""

LARGE = replace(
    BASE, embed_dim=1024, num_heads=16, prenet_depth=8, depth=16, mlp_dim=4096, num_alibi_heads=16, alibi_scales=(1, 16)
)
"""The shape of the network of about 300 million weights."""

NINE = "9 classes"


@dataclass(frozen=True)
class PublishedModel:
    """A model of the family, and the hubs where it is published."""

    name: str
    shape: NetworkConfig
    size: str
    """Shape and number of weights, for people."""
    head: str
    """The classes, for people."""
    hubs: tuple[HubName, ...] = ("ms", "hf")
    year: int = 2024
    """Year of publication."""

    @property
    def ids(self) -> Mapping[HubName, str]:
        """The model's id on each of its hubs."""
        return {hub: f"{OWNERS[hub]}/{self.name}" for hub in self.hubs}

    @property
    def pages(self) -> Mapping[HubName, str]:
        """The address of the model's card on each of its hubs."""
        return {hub: f"{PAGES[hub]}/{model_id}" for hub, model_id in self.ids.items()}


PUBLISHED_MODELS = (
    PublishedModel("emotion2vec_plus_seed", BASE, "base, ~90 M", NINE),
    PublishedModel("emotion2vec_plus_base", BASE, "base, ~90 M", NINE),
    PublishedModel("emotion2vec_plus_large", LARGE, "large, ~300 M", NINE),
    PublishedModel("emotion2vec_base_finetuned", BASE, "base", NINE, hubs=("ms",)),
    PublishedModel("emotion2vec_base", BASE, "base", "none: embeddings only", year=2023),
)


def find_published(name: str) -> PublishedModel | None:
    """Find a model of the family by its name, or by its id on a hub; None if it is another's."""
    return next((model for model in PUBLISHED_MODELS if name in (model.name, *model.ids.values())), None)
