"""ImageNet's classes, compared with published facts."""

from alexnet.prepare.sources.imagenet_classes import imagenet_classes


def test_the_thousand_classes_are_in_the_order_of_their_ids() -> None:
    ids = list(imagenet_classes())
    assert len(ids) == 1000
    assert ids == sorted(ids)
    # Outputs on which all published label lists agree.
    for index, wordnet_id, word in [
        (0, "n01440764", "tench"),
        (207, "n02099601", "golden retriever"),
        (281, "n02123045", "tabby"),
        (340, "n02391049", "zebra"),
        (817, "n04285008", "sports car"),
        (954, "n07753592", "banana"),
        (999, "n15075141", "toilet tissue"),
    ]:
        assert ids[index] == wordnet_id
        assert imagenet_classes()[wordnet_id].split(",")[0] == word


def test_two_classes_are_called_crane() -> None:
    assert [key for key, words in imagenet_classes().items() if words == "crane"] == [
        "n02012849",
        "n03126707",
    ]
