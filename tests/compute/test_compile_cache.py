"""Compiled programs are kept where they belong."""

import jax
import pytest

from lstm_jax.compute import compile_cache


def folder():
    return getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009


@pytest.fixture
def fresh(monkeypatch):
    """JAX without a cache folder, and as it was afterwards."""
    before = folder()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield monkeypatch
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_a_folder_of_this_processor(fresh, tmp_path):
    fresh.setattr(compile_cache, "cache_folder", lambda: tmp_path / "kept")
    compile_cache.keep_programs()
    assert folder() == str(tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()


def test_the_environment_wins(fresh, tmp_path):
    fresh.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    compile_cache.keep_programs()
    assert folder() is None


def test_no_folder_no_cache(fresh, tmp_path):
    (tmp_path / "file").write_text("")
    fresh.setattr(compile_cache, "cache_folder", lambda: tmp_path / "file" / "kept")
    compile_cache.keep_programs()
    assert folder() is None


def test_another_processor_has_another_folder(monkeypatch):
    here = compile_cache.cache_folder()
    monkeypatch.setattr(compile_cache, "_processor", lambda: "another")
    assert compile_cache.cache_folder() != here
