"""METER beside transformers: the encoders, the layer of BridgeTower; its sizes; what it is trained for, in loops."""

from __future__ import annotations

from random import Random

import pytest
import torch
import transformers
from torch.nn import functional as F
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer

from weft.errors import UserError
from weft.fusion.bert import BertLayer, load_official
from weft.systems.meter.codes import Codes, patches_of
from weft.systems.meter.decoder import Decoder, hide_spans
from weft.systems.meter.encoders import ClipTower, TextEncoder
from weft.systems.meter.masking import hide, mask_patches, mask_whole_words
from weft.systems.meter.network import MeterNet
from weft.systems.meter.objectives import TEMPERATURE, begin_ranking, in_batch_mim_loss, rank_loss
from weft.tokens import Tokens

CLOSE = {"rtol": 0, "atol": 1e-12}


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Double precision, evaluation, and no parameter at a round value."""
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module.double().eval()


def test_the_layer_is_bridgetowers() -> None:
    config = transformers.BridgeTowerTextConfig(hidden_size=12, num_attention_heads=3, intermediate_size=20)
    config.layer_norm_eps, config._attn_implementation = 1e-12, "eager"
    theirs = shaken(BridgeTowerBertCrossLayer(config))
    ours = BertLayer(12, 3, 20, cross=True).double()
    load_official(ours, theirs.state_dict())
    x, y = torch.randn(2, 5, 12).double(), torch.randn(2, 4, 12).double()
    x_mask, y_mask = (torch.arange(n) < torch.tensor(lengths)[:, None] for n, lengths in ((5, [5, 3]), (4, [2, 4])))
    blocked = [torch.zeros(2, 1, 1, len(m[0])).double().masked_fill(~m[:, None, None], -1e9) for m in (x_mask, y_mask)]
    expected = theirs(x, y, attention_mask=blocked[0], encoder_attention_mask=blocked[1])[0]
    found = ours(Tokens(x, x_mask), Tokens(y, y_mask)).values
    torch.testing.assert_close(found[x_mask], expected[x_mask], **CLOSE)


def test_the_tower_is_clips_without_its_last_block() -> None:
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=4
    )
    whole = shaken(transformers.CLIPVisionModel(config))
    tower = ClipTower.from_transformers(whole)
    image = torch.randn(2, 3, 16, 16).double()
    states = whole(image, output_hidden_states=True).hidden_states
    post = dict(whole.named_modules())[next(n for n, _ in whole.named_modules() if n.endswith("post_layernorm"))]
    torch.testing.assert_close(tower(image), post(states[2]), **CLOSE)
    assert ClipTower.from_transformers(whole, size=24)(torch.randn(1, 3, 24, 24).double()).shape == (1, 37, 16)
    with pytest.raises(UserError, match="as many patches"):
        tower(torch.randn(1, 3, 24, 24).double())


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_text_encoder_is_transformers(kind: str) -> None:
    sizes = {
        "vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
        "max_position_embeddings": 12, "pad_token_id": 1 if kind == "roberta" else 0,
    }  # fmt: skip
    auto = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes))
    theirs = shaken(auto)
    ids, mask = torch.randint(2, 30, (2, 7)), torch.arange(7) < torch.tensor([[7], [4]])
    ids[~mask] = sizes["pad_token_id"]
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    ours = TextEncoder.from_transformers(theirs).eval()
    torch.testing.assert_close(ours(ids, mask)[mask], expected[mask], **CLOSE)


def published(outputs: dict[str, int]) -> MeterNet:
    with torch.device("meta"):
        text = TextEncoder(50265, 514, 1, 768, 12, 3072, 12, padding=1)
        return MeterNet(text, ClipTower(768, 12, 11, 16, 288), (768, 768), outputs=outputs)


def test_the_published_size() -> None:
    """CLIP ViT-B/16 and RoBERTa-base, counted part by part from what is published of them."""
    roberta = 124_055_040  # of transformers' roberta-base without a pooler
    tower = 85_799_424 - 196 * 768 + 324 * 768 - 7_087_872  # of CLIP's ViT-B/16 at 288 pixels without its last block
    norm, linear = 2 * 768, 768 * 768 + 768
    layer = 8 * linear + (2 * 4 * 768 * 768 + 5 * 768) + 3 * norm
    fusion = 2 * 6 * layer + 2 * linear + 2 * linear + 2 * 768
    keys = 768 * (12 + 2 * 2 * 6)  # the biases that cancel
    vqa = 1536 * 1536 + 1536 + 2 * 1536 + 1536 * 3129 + 3129
    net = published({"vqa": 3129})
    assert sum(p.numel() for p in net.parameters()) == roberta + tower + fusion + vqa - keys
    joint = net(*(torch.zeros(2, 50, device="meta", dtype=d) for d in (torch.long, torch.bool)), *images(288))
    assert [tuple(part.shape) for part in joint] == [(2, 50, 768), (2, 325, 768), (2, 1536)]
    assert net.vqa_classifier(joint.cls).shape == (2, 3129)


def images(size: int) -> list[torch.Tensor]:
    return [torch.zeros(2, 3, size, size, device="meta")]


def small(fusion: str = "co", **outputs: int) -> MeterNet:
    torch.manual_seed(0)
    text = TextEncoder(20, 12, 1, 8, 2, 16, 1, None)
    return MeterNet(text, torch.nn.Identity(), (8, 6), 8, 2, 16, 2, outputs=outputs, dropout=0.0, fusion=fusion)


def test_padding_and_order_change_nothing() -> None:
    ids, mask = torch.randint(1, 20, (3, 6)), torch.arange(6) < torch.tensor([[6], [4], [2]])
    image = Tokens(torch.randn(3, 5, 6), torch.arange(5) < torch.tensor([[5], [3], [4]]))
    for fusion in ("co", "merged"):
        net = small(fusion).eval()
        whole = net(ids, mask, image).cls
        for row in range(3):
            cut = ids[row : row + 1, : mask[row].sum()], mask[row : row + 1, : mask[row].sum()]
            n = int(image.mask[row].sum())
            alone = net(*cut, Tokens(image.values[row : row + 1, :n], image.mask[row : row + 1, :n])).cls
            torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-5)
        order = torch.tensor([2, 0, 1])
        turned = net(ids[order], mask[order], Tokens(image.values[order], image.mask[order])).cls
        torch.testing.assert_close(turned, whole[order], rtol=1e-4, atol=1e-5)


def test_the_question_alone_hears_no_image() -> None:
    ids, mask = torch.randint(1, 20, (2, 4)), torch.ones(2, 4, dtype=torch.bool)
    found = small("merged")(ids, mask, None)
    assert found.image.shape == (2, 0, 8)
    assert not found.cls[:, 8:].any()
    with pytest.raises(UserError, match="co-attention needs an image"):
        small("co")(ids, mask, None)
    with pytest.raises(UserError, match="no such head"):
        small(words=3)


def test_words_are_masked_whole_and_no_more_than_a_share() -> None:
    pieces, continues = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19], {12, 13, 17}
    groups = [[0], [1, 2, 3], [4], [5], [6, 7], [8], [9]]
    chosen, shown_as = set(), {"mask": 0, "kept": 0, "other": 0}
    for seed in range(300):
        shown, labels = mask_whole_words(pieces, Random(seed), mask=1, ordinary=[2, 3], continues=continues, share=0.35)
        asked = [place for place, label in enumerate(labels) if label != -100]
        assert 1 <= len(asked) <= 4, "a share of 0.35 of ten is 4 (3.5 to the even)"
        for group in groups:
            assert len({place in asked for place in group}) == 1
        for place in range(10):
            assert labels[place] == (pieces[place] if place in asked else -100)
            if place in asked:
                kind = "mask" if shown[place] == 1 else "kept" if shown[place] == pieces[place] else "other"
                shown_as[kind] += 1
            else:
                assert shown[place] == pieces[place]
        chosen |= set(asked)
    assert chosen == set(range(10))
    total = sum(shown_as.values())
    assert [round(shown_as[k] / total, 1) for k in ("mask", "kept", "other")] == [0.8, 0.1, 0.1]
    assert mask_whole_words([5], Random(0), mask=1, ordinary=[2])[1] == [5]


def test_patches_are_hidden_where_they_are() -> None:
    mask = torch.arange(16) < torch.tensor([[16], [4]])
    hidden = mask_patches(mask, Random(0))
    assert hidden.sum(dim=1).tolist() == [2, 1]
    assert not (hidden & ~mask).any()
    image = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8) + 1.0
    found = hide(image, hidden, 2)
    for row in range(2):
        for y in range(8):
            for x in range(8):
                gone = bool(hidden[row, y // 2 * 4 + x // 2])
                assert (found[row, :, y, x] == (0 if gone else image[row, :, y, x])).all()
    tokens = torch.ones(2, 16, 5)
    assert torch.equal(hide(tokens, hidden)[..., 0] == 0, hidden)


def test_a_hidden_patch_is_found_among_those_of_the_batch() -> None:
    net = small(mim=8).eval()
    ids, mask = torch.randint(1, 20, (2, 4)), torch.ones(2, 4, dtype=torch.bool)
    image = Tokens(torch.randn(2, 3, 6), torch.tensor([[True, True, True], [True, True, False]]))
    hidden = torch.tensor([[False, True, False], [True, False, False]])
    joint = net(ids, mask, Tokens(hide(image.values, hidden), image.mask))
    found = in_batch_mim_loss(net, joint, image, hidden)
    patches = [net.cross_modal_image_transform(image.values[b, n]) for b, n in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))]
    losses = []
    for b, n, right in ((0, 1, 1), (1, 0, 3)):
        guess = net.mim_score(joint.image[b, n])
        scores = torch.stack([F.cosine_similarity(guess, p, dim=0) for p in patches]) / TEMPERATURE
        losses.append(scores.logsumexp(0) - scores[right])
    torch.testing.assert_close(found, torch.stack(losses).mean())
    found.backward()
    assert net.mim_score[0].weight.grad.abs().sum() > 0


def test_ranking_begins_as_matching() -> None:
    net = small(itm=2, rank=1)
    begin_ranking(net)
    c = torch.randn(6, 16)
    torch.testing.assert_close(net.rank_output(c)[:, 0], net.itm_score["fc"](c)[:, 1])
    scores = torch.tensor([[2.0, 0.0, 1.0]])
    assert rank_loss(scores).item() == pytest.approx(-2 + torch.tensor([2.0, 0, 1]).exp().sum().log().item())


def test_the_decoder_hears_the_memory_and_what_was_before() -> None:
    torch.manual_seed(0)
    decoder = Decoder(20, 8, 8, 2, 16, 2, 0.0).eval()
    ids, mask = torch.randint(1, 20, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    memory = Tokens(torch.randn(2, 5, 8), torch.arange(5) < torch.tensor([[5], [3]]))
    said = decoder(ids, mask, memory)
    later = decoder(torch.cat([ids[:, :4], ids[:, 4:].flip(1) % 19 + 1], dim=1), mask, memory)
    torch.testing.assert_close(said[:, :4], later[:, :4])
    assert not torch.allclose(said[:, 5], later[:, 5], atol=1e-3)
    other = memory.values.clone()
    other[1, 3:] = 100.0
    torch.testing.assert_close(said, decoder(ids, mask, Tokens(other, memory.mask)))
    assert not torch.allclose(said, decoder(ids, mask, Tokens(memory.values + 1, memory.mask)), atol=1e-3)


def test_hidden_spans_and_the_rest_are_the_text() -> None:
    for seed in range(40):
        for length in (1, 2, 5, 20, 45):
            for share in (0.15, 0.5, 1.0):
                pieces = list(range(10, 10 + length))
                shown, said = hide_spans(pieces, Random(seed), mask=0, share=share)
                spans: list[list[int]] = []
                for piece in said:
                    if piece:
                        spans[-1].append(piece)
                    else:
                        spans.append([])
                assert all(spans)
                hidden = iter(spans)
                assert [p for piece in shown for p in (next(hidden) if piece == 0 else [piece])] == pieces
                assert sum(map(len, spans)) == max(1, round(share * length))
                assert "00" not in "".join("0" if piece == 0 else "1" for piece in shown)


def test_codes_are_the_nearest_means() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [9, 0, 0], [0, 9, 0]])
    patches = centres.repeat_interleave(20, dim=0) + 0.1 * torch.randn(60, 3)
    codes = Codes(3, 3)
    codes.fit(patches)
    found = codes(patches.view(6, 10, 3)).flatten()
    for row, patch in enumerate(patches):
        assert int(found[row]) == min(range(3), key=lambda k: float((codes.means[k] - patch).norm()))
    assert len({int(found[20 * k]) for k in range(3)}) == 3
    image = torch.randn(2, 3, 8, 8)
    taken = patches_of(image, 4)
    torch.testing.assert_close(taken[1, 2], image[1, :, 4:8, 0:4].flatten())
