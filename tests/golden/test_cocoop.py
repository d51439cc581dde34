"""CoOp and CoCoOp against vectors of the original code: prompts, features, logits, loss, gradients; the protocol."""

import json
import random

import pytest
import torch
import transformers
from torch.nn import functional as F

from tests.golden.cases import golden, load
from weft.systems.cocoop.network import CoopNet, PromptLearner, Prompts
from weft.systems.cocoop.protocols import Item, base_and_new, few_shot, learning_rate

EXACT = {"rtol": 0, "atol": 1e-10}
BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
TOWERS = {
    "image_encoder.class_embedding": "vision_model.embeddings.class_embedding",
    "image_encoder.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "image_encoder.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "image_encoder.ln_pre": "vision_model.pre_layrnorm",
    "image_encoder.ln_post": "vision_model.post_layernorm",
    "image_encoder.proj": "visual_projection.weight",
    "text_encoder.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_encoder.ln_final": "text_model.final_layer_norm",
    "text_encoder.text_projection": "text_projection.weight",
    "image_encoder.transformer.resblocks": "vision_model.encoder.layers",
    "text_encoder.transformer.resblocks": "text_model.encoder.layers",
}


def transformers_state(state):
    """Weights of OpenAI's CLIP under the names of transformers."""
    found = {}
    for name, value in state.items():
        for old, new in {**TOWERS, **BLOCK}.items():
            name = name.replace(old, new)
        if "in_proj" in name:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[name.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = piece
        else:
            found[name] = value.T if name.endswith("projection.weight") else value
    return found


def recorded_clip(config, state, ids):
    """The recorded CLIP, with the token embeddings that its prefixes and suffixes show."""
    width, embedded = config["text_width"], torch.cat([state["token_prefix"], state["token_suffix"]], dim=1)
    shown = torch.cat([ids[:, :1], ids[:, ids.shape[1] + 1 - embedded.shape[1] :]], dim=1)
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={
                "vocab_size": int(ids.max()) + 1, "hidden_size": width, "intermediate_size": 4 * width,
                "num_hidden_layers": config["text_layers"], "num_attention_heads": config["text_heads"],
                "max_position_embeddings": ids.shape[1], "eos_token_id": int(ids.max()), "hidden_act": "quick_gelu",
            },
            vision_config={
                "hidden_size": config["vision_width"], "intermediate_size": 4 * config["vision_width"],
                "num_hidden_layers": config["vision_layers"], "num_attention_heads": config["vision_heads"],
                "image_size": config["res"], "patch_size": config["patch"], "hidden_act": "quick_gelu",
            },
            projection_dim=config["embed_dim"],
        )
    ).double()  # fmt: skip
    towers = {n: v for n, v in state.items() if n.startswith(("image_encoder", "text_encoder", "logit_scale"))}
    missing, unexpected = clip.load_state_dict(transformers_state(towers), strict=False)
    assert not unexpected
    assert {n for n in missing if "position_ids" not in n} == {"text_model.embeddings.token_embedding.weight"}
    table = clip.text_model.embeddings.token_embedding.weight.data
    table[shown] = embedded
    torch.testing.assert_close(table[shown], embedded, rtol=0, atol=0)
    return clip


@golden("cocoop_prompt")
@pytest.mark.parametrize("chunk", [1, 64])
def test_prompts_features_logits_and_gradients(path, chunk):
    case = load(path)
    options, values = case.config["config"], case.tensors
    state = {n.removeprefix("state."): t.double() for n, t in values.items() if n.startswith("state.")}
    state = {n.removeprefix("prompt_learner."): t for n, t in state.items()}
    ids = values["input.tokenized_prompts"]
    clip = recorded_clip(options["clip"], state, ids)
    conditional = options["kind"] == "CoCoOp"
    joint = options["clip"]["embed_dim"] if conditional else None
    learner = PromptLearner(state["ctx"], joint=joint, position=options["CLASS_TOKEN_POSITION"]).double()
    learner.load_state_dict({n: t for n, t in state.items() if n.startswith(("ctx", "meta_net"))})
    net = CoopNet(clip, learner, Prompts(ids, tuple(case.config["name_lens"])), chunk=chunk).train()

    feature = net.image_features(values["input.image"].double())
    raw = clip.get_image_features(pixel_values=values["input.image"].double()).pooler_output
    torch.testing.assert_close(raw, values["output.image_features"], **EXACT)

    contexts = learner.contexts(feature)
    if conditional:
        torch.testing.assert_close(learner.meta_net(feature), values["output.meta_bias"], **EXACT)
    embedded = clip.text_model.embeddings.token_embedding(ids)
    first = contexts[0].expand(len(ids), -1, -1) if contexts.shape[0] != len(ids) or conditional else contexts
    order = learner.order(case.config["name_lens"], ids.shape[1], 1)
    prompts = values["output.prompts_first" if conditional else "output.prompts"].double()
    torch.testing.assert_close(net.assemble(embedded, first, order), prompts, **EXACT)

    text = net.text_features(feature)
    torch.testing.assert_close(text[0], values["output.text_features_first"], **EXACT)
    logits = net(feature)
    torch.testing.assert_close(logits, values["output.logits"], **EXACT)
    loss = F.cross_entropy(logits, values["input.label"])
    torch.testing.assert_close(loss, values["output.loss"], **EXACT)
    loss.backward()
    grads = {n.removeprefix("grad."): t for n, t in values.items() if n.startswith("grad.")}
    moved = dict(learner.named_parameters())
    assert set(grads) == set(moved)
    for name, grad in grads.items():
        torch.testing.assert_close(moved[name].grad, grad, **EXACT)


@golden("cocoop_protocol", suffix="json")
def test_protocol(path):
    recorded = json.loads(path.read_text())
    for epochs, rates in recorded["lr_per_epoch"].items():
        found = [learning_rate(epoch, int(epochs)) for epoch in range(len(rates))]
        assert found == pytest.approx(rates, rel=1e-9, abs=1e-12)

    drawn = recorded["fewshot"]
    items = [Item(image, label, f"c{label}") for image, label in drawn["items"]]
    chosen = few_shot(items, drawn["shots"], random.Random(drawn["seed"]))
    assert [[item.path, item.label] for item in chosen] == drawn["selected"]

    for half, (part,) in zip(("base", "new"), base_and_new(chosen), strict=True):
        assert sorted({item.label for item in part}) == recorded[half]["labels"]
        assert [name for _, name in sorted({(item.label, item.name) for item in part})] == recorded[half]["classnames"]
        first = recorded[half]["first"]
        assert [[item.path, item.label] for item in part[: len(first)]] == first
