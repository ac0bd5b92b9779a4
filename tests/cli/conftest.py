import pytest

from fxgrow.cli import main

TINY = [
    f"--set={s}" for s in ("num_classes=10", "img_size=16", "patch_size=8", "depth=2", "embed_dim=24", "num_heads=3")
]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A tiny vision transformer through the whole story: traced, scored on digits, grown."""
    folder = tmp_path_factory.mktemp("story")
    traced, scored, grown = (str(folder / name) for name in ("traced.pt", "scored.pt", "grown.pt"))
    assert main(["trace", "timm:vit_tiny_patch16_224", *TINY, "-o", traced]) == 0
    assert main(["score", traced, "--data", "digits", "-o", scored]) == 0
    assert main(["grow", scored, "--budget", "20%", "-o", grown]) == 0
    return {"traced": traced, "scored": scored, "grown": grown}


@pytest.fixture
def run(capsys):
    """Run the command line; return its status and what it printed."""

    def run(*argv):
        capsys.readouterr()
        status = main([str(argument) for argument in argv])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
