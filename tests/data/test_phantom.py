"""Random chests: anatomy where it belongs, people that differ, the same person from the same key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from dvg_jax.ct.intensity import hu_to_intensity, intensity_to_hu
from dvg_jax.data.phantom.chest import person_hu
from dvg_jax.data.phantom.person import FINDINGS, NUMBERS, POSE, draw_person, with_findings
from dvg_jax.data.sources import PhantomSource

SIZE = 32


@pytest.fixture(scope="module")
def people():
    source = PhantomSource(8, SIZE)
    return np.stack([intensity_to_hu(source[i]["ct"][..., 0]) for i in range(8)])


def test_the_same_key_draws_the_same_person(people):
    again = PhantomSource(20, SIZE)[3]["ct"][..., 0]
    np.testing.assert_array_equal(people[3], intensity_to_hu(again))
    assert all(np.abs(people[i] - people[i + 1]).mean() > 10 for i in range(7))


def test_values_are_those_of_tissue(people):
    assert np.isfinite(people).all()
    assert people.min() == pytest.approx(-1000, abs=0.1)  # air
    assert 300 < people.max() <= 1476


def test_two_lungs_right_and_left_inside_the_body(people):
    for hu in people:
        air = (hu > -980) & (hu < -500)
        labels, count = ndimage.label(ndimage.binary_erosion(air))
        assert count >= 1
        lung = air[SIZE // 2]
        assert lung[:, : SIZE // 2].sum() > 5
        assert lung[:, SIZE // 2 :].sum() > 5
        assert labels[0].sum() == 0  # the lowest slice is abdomen


def test_spine_behind_liver_on_the_right_heart_on_the_left(people):
    mean = people.mean(0)
    # Below the heart, whose chambers may hold contrast medium, the midline's bone is the spine.
    midline = (people > 250).mean(0)[:10, :, 13:19]
    assert midline[:, SIZE // 2 :].sum() > 4 * midline[:, : SIZE // 2].sum()
    low = mean[:8, 8:22]  # below the right dome: liver against stomach, spleen and fat
    assert low[..., 6:14].mean() > low[..., 18:26].mean() + 50
    heart = mean[12:18, 6:16]
    assert heart[..., 17:22].mean() > heart[..., 10:15].mean()


def test_test_people_are_others_than_training_people(people):
    test = PhantomSource(4, SIZE, split="test")
    others = [intensity_to_hu(test[i]["ct"][..., 0]) for i in range(4)]
    assert min(np.abs(a - b).mean() for a in people for b in others) > 10
    with pytest.raises(IndexError):
        test[4]


def test_intensity_is_the_window_of_hu():
    hu = np.array([-2000.0, -1024.0, 0.0, 1476.0, 3000.0])
    np.testing.assert_allclose(hu_to_intensity(hu), [0, 0, 1024 / 2500, 1, 1], atol=1e-6)
    np.testing.assert_allclose(intensity_to_hu(hu_to_intensity(hu)), np.clip(hu, -1024, 1476), atol=1e-3)


def test_numbers_and_findings_are_as_frequent_as_stated():
    count = 4000
    drawn = jax.jit(jax.vmap(draw_person))(jax.random.split(jax.random.key(0), count))
    for name, share in FINDINGS.items():
        assert drawn.has[name].mean() == pytest.approx(share, abs=4 * np.sqrt(share / count)), name
    for name, percentiles in NUMBERS.items():
        found = np.percentile(drawn.numbers[name], (2.5, 50, 97.5))
        np.testing.assert_allclose(found, percentiles, atol=0.12 * (percentiles[2] - percentiles[0]), err_msg=name)
    skewness = {name: stats.skew(np.asarray(drawn.numbers[name])) for name in NUMBERS}
    assert skewness["fat"] > 0.8
    assert skewness["lung_hu"] > 0.8
    assert abs(skewness["scale"]) < 0.15
    # The old have hard arteries and bent spines, the obese short lungs.
    assert stats.pearsonr(drawn.numbers["kyphosis"], drawn.has["calcification"]).statistic > 0.2
    assert stats.pearsonr(drawn.numbers["fat"], drawn.numbers["lung_length"]).statistic < -0.2
    # Half of all people have none of what is disease or a device, of which several come together in others.
    ill = np.stack([drawn.has[name] for name in list(FINDINGS)[4:]])
    assert (ill.sum(axis=0) >= 3).mean() > stats.binom.sf(2, len(ill), ill.mean())


def test_a_plain_person_has_no_finding_and_lies_in_the_middle():
    person = draw_person(jax.random.key(1), plain=True)
    assert not any(person.has.values())
    assert not any(person.numbers[name] for name in POSE)


@pytest.fixture(scope="module")
def pictured():
    """Return a function: HU of a person with one finding alone, and of the same person without any."""
    draw = jax.jit(lambda key, has: person_hu(with_findings(draw_person(key), has), SIZE))

    def pair(finding, number=0):
        has = dict.fromkeys(FINDINGS, jnp.zeros(()))
        key = jax.random.key(100 + number)
        return np.asarray(draw(key, has | {finding: jnp.ones(())})), np.asarray(draw(key, has))

    return pair


# HU that lungs reach where these have changed them.
IN_LUNGS = {
    "mass": (20, 45),
    "consolidation": (-30, 30),
    "ground_glass": (-700, -450),
    "effusion": (0, 15),
    "bullae": (-990, -930),
    "pneumothorax": (-1000, -950),
}


@pytest.mark.parametrize("finding", IN_LUNGS)
def test_disease_of_the_lungs_stays_in_them_and_has_its_density(pictured, finding):
    seen = []
    for number in range(4):
        ill, well = pictured(finding, number)
        changed, lungs = np.abs(ill - well) > 20, well < -700
        # Partly filled voxels lie at the edge; the fat around the heart shows a little of what is behind it.
        near = ndimage.binary_dilation(lungs, np.ones((3, 3, 3)))
        assert (changed & ~near).sum() <= 0.05 * changed.sum()
        seen.append(ill[changed & lungs])
    low, high = IN_LUNGS[finding]
    assert low <= np.percentile(np.concatenate(seen), 5 if high < -900 else 95) <= high


def test_nodules_are_dense_or_hard_and_no_larger_than_three_centimetres(pictured):
    for number in range(4):
        ill, well = pictured("nodules", number)
        changed = ill - well > 100
        assert changed.sum() <= 4 * 27


def _lung(hu):
    return (hu > -980) & (hu < -700)


# Finding: what has changed, of the masks of voxels that became denser and less dense, and both volumes.
ELSEWHERE = {
    "contrast": lambda up, down, ill, well: up.any() and not down.any() and (ill - well).max() < 400,
    "upright": lambda up, down, ill, well: up.any() or down.any(),
    "arms_down": lambda up, down, ill, well: up[:12, :, [0, -1]].sum() + up[..., [0, -1]].sum() > 0,
    "scanned": lambda up, down, ill, well: not up.any() and ill[down].min() < -990,
    "emphysema": lambda up, down, ill, well: down[_lung(well)].mean() > 0.3,
    "fibrosis": lambda up, down, ill, well: ill[_lung(well)].mean() > well[_lung(well)].mean() + 20,
    "collapse": lambda up, down, ill, well: (ill < -500).sum() < (well < -500).sum(),
    "raised_dome": lambda up, down, ill, well: up.sum() > down.sum(),
    "cardiomegaly": lambda up, down, ill, well: up[:, : SIZE // 2].sum() > up[:, SIZE // 2 :].sum(),
    "hernia": lambda up, down, ill, well: up[..., 10:22].sum() > 0 and not up[..., :8].any(),
    "scoliosis": lambda up, down, ill, well: up.any() and down.any(),
    "calcification": lambda up, down, ill, well: up.any() and (ill[up] < 600).all(),
    "pacemaker": lambda up, down, ill, well: ill[up].max() > 1200 and np.argwhere(up).mean(0)[0] > SIZE // 2,
    "wires": lambda up, down, ill, well: np.argwhere(up)[:, 1].max() < SIZE // 2,
    "rods": lambda up, down, ill, well: np.argwhere(up)[:, 1].min() > SIZE // 2 and ill[up].max() > 500,
    "prosthesis": lambda up, down, ill, well: ill[up].max() > 2000 and np.argwhere(up)[:, 0].min() > SIZE // 2,
}


@pytest.mark.parametrize("finding", ELSEWHERE)
def test_findings_elsewhere(pictured, finding):
    ill, well = pictured(finding)
    assert ELSEWHERE[finding](ill - well > 20, ill - well < -20, ill, well)


def test_every_finding_is_tested():
    assert {*IN_LUNGS, *ELSEWHERE, "nodules"} == set(FINDINGS)
