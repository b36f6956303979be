"""Configuration objects, and what they mean for the settings."""

from __future__ import annotations

import pytest

from vllm_enhance import CacheConfig, CacheType, FeaturesConfig, HandlerConfig, NLPConfig, SimilarityConfig
from vllm_enhance.assembly import assemble
from vllm_enhance.config import chosen_settings
from vllm_enhance.errors import ConfigurationError, InvalidConfigError
from vllm_enhance.hookspecs import hookimpl


def test_a_redis_cache_is_written_as_settings() -> None:
    config = CacheConfig(
        cache_type=CacheType.REDIS,
        redis_host="cache.example",
        redis_port=6380,
        redis_password="p@ss/word",
        memory_cache_size=1000,
        ttl=3600,
        enable_compression=True,
    )
    settings = assemble(config.chosen(), {}).settings
    assert settings["store"] == "redis://:p%40ss%2Fword@cache.example:6380/0"
    assert settings["cache-max-entries"] == 1000
    assert settings["cache-ttl"] == 3600
    assert settings["cache-compression"] == "zstd"
    assert settings.shown()["store"] == "***"
    assert "p@ss" not in repr(config)
    assert "p%40ss" not in repr(config.chosen())


def test_a_sqlite_cache_needs_a_file() -> None:
    with pytest.raises(InvalidConfigError, match="sqlite_path"):
        CacheConfig(cache_type="sqlite")
    assert CacheConfig(cache_type="sqlite", sqlite_path="/x/y.db").url == "sqlite:///x/y.db"
    assert CacheConfig().url is None


def test_similarity_is_written_as_settings() -> None:
    config = SimilarityConfig(
        enable_vector_search=True, similarity_threshold=0.8, max_similar_results=3, vector_dimension=768
    )
    settings = assemble(config.chosen(), {}).settings
    assert settings["similarity-mode"] == "on"
    assert settings["similarity-threshold"] == 0.8
    assert settings["similarity-policy"] == "threshold"
    assert settings["similar-results-limit"] == 3
    assert settings["similar-results"].startswith("sqlite:///dev/shm/")
    assert "similar-results" not in SimilarityConfig(enable_vector_search=False).chosen()


def test_what_was_not_set_leaves_the_environment_alone() -> None:
    environ = {"ENHANCE_CACHE_TTL": "7s", "ENHANCE_CACHE_MAX_ENTRIES": "9"}
    settings = assemble(CacheConfig(ttl=5).chosen(), environ).settings
    assert settings["cache-ttl"] == 5
    assert settings["cache-max-entries"] == 9
    assert settings.sources["cache-ttl"] == "CacheConfig.ttl"


def test_assignment_is_checked_and_counts_as_set() -> None:
    config = HandlerConfig()
    assert config.chosen() == {}
    config.features.enable_nlp_enhancement = True
    config.nlp.max_concurrent_tasks = 50
    assert assemble(config.chosen(), {}).settings["nlp-max-concurrent-tasks"] == 50
    with pytest.raises(InvalidConfigError, match=r"NLPConfig\.max_concurrent_tasks"):
        config.nlp.max_concurrent_tasks = 0
    assert config.nlp.max_concurrent_tasks == 50


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CacheConfig(tll=5), r"CacheConfig\.tll: there is no such field"),
        (lambda: CacheConfig(ttl=-1), r"CacheConfig\.ttl"),
        (lambda: CacheConfig(redis_port=70000), r"CacheConfig\.redis_port"),
        (lambda: SimilarityConfig(similarity_threshold=1.5), r"SimilarityConfig\.similarity_threshold"),
        (lambda: NLPConfig(language="fr"), r"NLPConfig\.language"),
        (lambda: HandlerConfig(cache_enabled=True, features={"enable_caching": False}), "said twice"),
        (lambda: HandlerConfig(max_active_requests=0), r"HandlerConfig\.max_active_requests"),
    ],
)
def test_a_bad_value_names_its_field(make: object, named: str) -> None:
    with pytest.raises(InvalidConfigError, match=named) as caught:
        make()  # type: ignore[operator]
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, ValueError)


def test_the_short_names_of_the_handler_config() -> None:
    config = HandlerConfig(model_name="m", cache_enabled=False, nlp_enabled=True, similarity_enabled=False)
    assert config.features.model_dump() == {
        "enable_caching": False,
        "enable_similarity_search": False,
        "enable_nlp_enhancement": True,
        "enable_detailed_logging": False,
    }
    assert (config.cache_enabled, config.nlp_enabled, config.similarity_enabled) == (False, True, False)
    mixed = HandlerConfig(nlp_enabled=True, features=FeaturesConfig(enable_caching=False))
    assert (mixed.cache_enabled, mixed.nlp_enabled) == (False, True)


def test_a_switch_that_is_off_anywhere_is_off() -> None:
    on = SimilarityConfig(enable_vector_search=True)
    off = HandlerConfig(similarity_enabled=False)
    assert chosen_settings([on, off])["similarity-mode"][0] == "off"
    assert (
        chosen_settings([SimilarityConfig(enable_vector_search=False), HandlerConfig(similarity_enabled=True)])[
            "similarity-mode"
        ][0]
        == "off"
    )


def test_any_other_setting_by_name_and_an_unknown_one() -> None:
    assert assemble(HandlerConfig(settings={"coalesce": "off"}).chosen(), {}).settings["coalesce"] is False
    with pytest.raises(ConfigurationError, match=r"HandlerConfig\.settings\['colaesce'\].*no loaded hook package"):
        assemble(HandlerConfig(settings={"colaesce": "yes"}).chosen(), {})
    with pytest.raises(ConfigurationError, match=r"HandlerConfig\.settings"):
        assemble(HandlerConfig(settings={"lookup": "maybe"}).chosen(), {})


def test_a_missing_hook_package_is_told_unless_it_is_switched_off() -> None:
    none = {"hooks": ("none", "test")}
    assert assemble({**none, **HandlerConfig(nlp_enabled=False).chosen()}, {}).plugins.loaded == []
    with pytest.raises(ConfigurationError, match="'nlp'"):
        assemble({**none, **HandlerConfig(nlp_enabled=True).chosen()}, {})


class Greeter:
    @hookimpl(inline=True)
    def stats(self) -> dict[str, int]:
        return {"greetings": 1}


def test_assemblies_share_no_hook_object_and_take_ones_own() -> None:
    first, second = assemble({}, {}), assemble({}, {})
    for each in first.plugins.loaded:
        assert first.plugins.manager.get_plugin(each.name) is not second.plugins.manager.get_plugin(each.name)
    mine = Greeter()
    given = assemble({}, {}, given={"cache": mine})
    assert given.plugins.manager.get_plugin("cache") is mine
    assert [each.source for each in given.plugins.loaded if each.name == "cache"] == ["given"]
    with pytest.raises(InvalidConfigError, match="cache: object is not a hook package"):
        assemble({}, {}, given={"cache": object()})
