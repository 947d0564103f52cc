"""Lookups of Keras, which need TensorFlow whatever the backend: in memory and from files."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from keras import layers  # noqa: E402
from support.imported import TOLERANCE  # noqa: E402

from forwardpass.models import Categorical, forward  # noqa: E402
from forwardpass.models.errors import UnsupportedSourceError  # noqa: E402
from forwardpass.models.file.export import proven  # noqa: E402
from forwardpass.models.importers.keras import from_keras  # noqa: E402

# Of Keras' own making: with NumPy 2, and where a mask of an Embedding ends.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Layer 'flatten:UserWarning"),
]

# Of each column what is in the vocabularies below, and what is not.
ROWS = {
    "color": ["red", "", "[UNK]", "Größe 🎨", "RED", "blue", "green", "red "],
    "size": [3, 5, -1, 8, 0, 7, 2**62, 3],
    "weight": [0.5, -1.0, 3.0, 1e-3, 70.0, 2.0, 0.0, 9.0],
}
TOKENS = ["red", "Größe 🎨", "blue"]
KNOWN = {"color": ["red", "blue", "Größe 🎨"], "size": [3, 8, 5], "weight": [0.5, 2.0, 0.0]}


def text(*shape):
    return keras.Input(shape, dtype="string", name="color")


def whole(*shape, dtype="int64"):
    return keras.Input(shape, dtype=dtype, name="size")


def answered(source, column):
    return keras.Model(source, layers.Dense(3, activation="tanh", name="y")(column))


def adapted(**options):
    lookup = layers.StringLookup(**options)
    lookup.adapt(np.array([*TOKENS, "red", "red", "blue", "", ""], object)[:, np.newaxis])
    return lookup


def encoded(**options):
    source = text(1)
    return answered(source, layers.StringLookup(vocabulary=TOKENS, **options)(source))


def embedded(source, lookup, size=4):
    return layers.Flatten()(layers.Embedding(size, 2)(lookup(source)))


def from_an_adapted(**options):
    source = text(1)
    return answered(source, adapted(**options)(source))


def embedding_of_an_adapted(**options):
    source, lookup = text(1), adapted(**options)
    return answered(source, embedded(source, lookup, lookup.vocabulary_size() + 2))


def integers(**options):
    source = whole(1)
    return answered(source, layers.IntegerLookup(vocabulary=[3, 5, 8], **options)(source))


def without_an_axis():
    source = text()
    return answered(source, layers.Embedding(4, 2)(layers.StringLookup(vocabulary=TOKENS)(source)))


def encoding_of_a_lookup(mode):
    source = text(1)
    index = layers.StringLookup(vocabulary=TOKENS, mask_token="")(source)
    return answered(source, layers.CategoryEncoding(num_tokens=7, output_mode=mode)(index))


def wide_and_deep():
    source = text(1)
    index = layers.StringLookup(vocabulary=TOKENS, mask_token="")(source)
    hots = layers.StringLookup(vocabulary=TOKENS[::-1], mask_token="", output_mode="one_hot")
    deep = layers.Flatten()(layers.Embedding(5, 2, mask_zero=True)(index))
    return answered(source, layers.Concatenate()([hots(source), deep]))


def table(form):
    color, size, weight = text(1), whole(1), keras.Input((1,), name="weight")
    normalization = layers.Normalization(axis=None)
    normalization.adapt(np.array(ROWS["weight"]))
    lookup, numbers = adapted(), layers.IntegerLookup(vocabulary=[3, 5, 8])
    both = layers.Concatenate()(
        [layers.Embedding(5, 3)(lookup(color)), layers.Embedding(4, 2)(numbers(size))]
    )
    hots = layers.CategoryEncoding(num_tokens=4, output_mode="multi_hot")(numbers(size))
    joined = layers.Concatenate()([layers.Flatten()(both), hots, normalization(weight)])
    inside = keras.Sequential([keras.Input(joined.shape[1:]), layers.Dense(4, activation="relu")])
    listed = [weight, color, size]
    given = {each.name: each for each in listed} if form == "a dict" else listed
    return answered(given, layers.Dropout(0.5)(inside(joined)))


def lookups_in_a_model_of_their_own():
    color = text(1)
    encoder = keras.Model(color, adapted(output_mode="one_hot")(color))
    source = text(1)
    return answered(source, encoder(source))


def sequential():
    return keras.Sequential(
        [
            text(1),
            layers.StringLookup(vocabulary=TOKENS),
            layers.Embedding(4, 3),
            layers.Reshape((3,)),
            layers.Dense(3, name="y"),
        ]
    )


ALL = {
    "one-hots": lambda: encoded(output_mode="one_hot"),
    "multi-hots": lambda: encoded(output_mode="multi_hot"),
    "one-hots, masked": lambda: encoded(output_mode="one_hot", mask_token=""),
    "one-hots, masked and padded": lambda: encoded(
        output_mode="multi_hot", mask_token="RED", max_tokens=9, pad_to_max_tokens=True
    ),
    "an unknown token of another name": lambda: encoded(output_mode="one_hot", oov_token="RED"),
    "an adapted vocabulary": lambda: from_an_adapted(output_mode="one_hot", mask_token=""),
    "an adapted vocabulary, cut": lambda: from_an_adapted(output_mode="one_hot", max_tokens=3),
    "embedding of an adapted one": lambda: embedding_of_an_adapted(mask_token=""),
    "integers": lambda: integers(output_mode="one_hot"),
    "integers, masked": lambda: integers(output_mode="multi_hot", mask_token=0),
    "no axis of values": without_an_axis,
    "CategoryEncoding": lambda: encoding_of_a_lookup("one_hot"),
    "CategoryEncoding of several": lambda: encoding_of_a_lookup("multi_hot"),
    "wide and deep": wide_and_deep,
    "a table": lambda: table("a list"),
    "a table by name": lambda: table("a dict"),
    "a model of lookups": lookups_in_a_model_of_their_own,
    "a Sequential model": sequential,
}


def embedding_without_a_lookup():
    source = whole(1, dtype="float32")
    return answered(source, layers.Flatten()(layers.Embedding(9, 2)(source)))


# Keras answers what is not known with an error.
ONLY_KNOWN = {
    "no unknown token": lambda: encoded(output_mode="one_hot", num_oov_indices=0),
    "no lookup": embedding_without_a_lookup,
}


def assert_answers(model, rows, path) -> None:
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape))
    model.save(path)
    names = {each.name for each in model.inputs}
    sent = {name: values for name, values in rows.items() if name in names}
    arrays = {
        each.name: np.array(sent[each.name], object if each.dtype == "string" else None).reshape(
            -1, *each.shape[1:]
        )
        for each in model.inputs
    }
    given = (
        arrays
        if not isinstance(model, keras.Sequential) and isinstance(model.input, dict)
        else [arrays[each.name] for each in model.inputs]
    )
    theirs = keras.ops.convert_to_numpy(model(given if len(names) > 1 else given[0]))
    for network in (from_keras(model), from_keras(path)):
        x = {
            each.name: np.array(sent[each.name], object if each.name == "color" else None)
            for each in network.inputs
        }
        ours = network(x)["y"]
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        print(f"{network}: off by {error:.1e} of the largest magnitude")
        assert error <= TOLERANCE
        proven(network)


@pytest.mark.parametrize("name", ALL)
def test_texts_and_integers_are_answered_as_keras_does(name, tmp_path: Path) -> None:
    assert_answers(ALL[name](), ROWS, tmp_path / "m.keras")


@pytest.mark.parametrize("name", ONLY_KNOWN)
def test_what_keras_has_no_answer_for_has_none(name, tmp_path: Path) -> None:
    assert_answers(ONLY_KNOWN[name](), KNOWN, tmp_path / "m.keras")
    network = from_keras(tmp_path / "m.keras")
    (source,) = network.inputs
    unknown = np.array(["zzz"], object) if source.name == "color" else np.array([99])
    assert np.isnan(forward(network, {source.name: unknown.reshape(1, 1)})["y"]).all()


def of_a_vocabulary(tokens, **options):
    source = text(1)
    lookup = layers.StringLookup(**options)
    lookup.adapt(np.array(tokens, object)[:, np.newaxis])
    return answered(source, embedded(source, lookup, 9))


def test_a_vocabulary_that_a_file_does_not_keep_is_refused(tmp_path: Path) -> None:
    for tokens in (["a", "a", "b\nc"], ["a", "a", "b", "b", ""]):
        model = of_a_vocabulary(tokens)
        from_keras(model)
        model.save(tmp_path / "m.keras")
        with pytest.raises(UnsupportedSourceError, match=r"tokens, where .* import the model from"):
            from_keras(tmp_path / "m.keras")


def test_what_comes_after_a_layer_is_imported_as_its_refusal_says() -> None:
    source = text(1)
    bins = layers.Hashing(5, name="bins")
    hashed = answered(source, layers.CategoryEncoding(5, "one_hot")(bins(source)))
    number = keras.Input((1,), name="weight")
    steps = layers.Discretization([0.0, 1.0], name="bins")
    binned = answered(number, layers.Flatten()(layers.Embedding(3, 2)(steps(number))))
    for model in (hashed, binned):
        with pytest.raises(UnsupportedSourceError, match=r"layer 'bins' .* keras.Model"):
            from_keras(model)
        rest = keras.Model(model.get_layer("bins").output, model.outputs)
        (read,) = from_keras(rest).inputs
        assert isinstance(read, Categorical)
        assert read.categories[:2] == (0, 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: encoded(num_oov_indices=2), "num_oov_indices=2; a Network has only num_oov"),
        (lambda: encoded(output_mode="count"), "output_mode='count'"),
        (lambda: encoded(oov_token=None, output_mode="one_hot"), "oov_token=None"),
        (encoded, r"layer 'y' \(Dense\): reads the index of a category as a number"),
    ],
)
def test_what_a_network_cannot_represent_is_refused_by_name(model, message) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_keras(model())
