"""The names that reproduce.py lists without loading anything are those of the code."""

import subprocess
import sys

import pytest

from dg.experiments import comparisons, imagenet_settings, registry, sections, settings, studies
from dg.experiments.study import SECTIONS
from tests.scripts import ROOT


def test_the_names_are_those_of_the_code():
    assert tuple(studies.STUDIES) == registry.STUDIES
    assert tuple(settings.SETTINGS) == registry.SETTINGS
    assert tuple(comparisons.STUDIES) == registry.COMPARISONS
    assert tuple(imagenet_settings.SETTINGS) == registry.IMAGENET
    assert set(registry.DEFAULT_SETTING) <= set(registry.STUDIES)
    assert set(registry.DEFAULT_SETTING.values()) <= set(registry.SETTINGS)


@pytest.mark.parametrize("setting", registry.SETTINGS)
def test_every_section_of_a_study_is_known(setting):
    made = [studies.build(name, settings.SETTINGS[setting]) for name in registry.STUDIES]
    made += [build(comparisons.setting_of(name)) for name, build in comparisons.STUDIES.items()]
    assert {section for study in made for section in study.sections} <= set(sections.SECTIONS)
    assert set(SECTIONS) <= set(sections.SECTIONS)


def test_names_come_without_torch():
    code = "import sys, dg.experiments.registry, dg.options.reproduce\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_name_is_known_once():
    names = registry.known_names()
    assert len(names) == len(set(names)) and {"digits", "two-gaussians", "lora", "mnist-14"} <= {
        *names
    }
