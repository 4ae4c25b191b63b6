"""The command line on synthetic tables with the formats and peculiarities of well-known public data sets.

Each table is usable with certain options. Without them, most of the tables are refused, with a message about the
problem.
"""

import csv
import io
import json
from dataclasses import dataclass

import numpy as np
import pytest

from deepnotes.cli import main

pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')

ROWS = 60


@dataclass
class Sample:
    """A data file, the options to train on it, and the error expected without them ("" if that is not tested)."""

    text: str
    options: str
    error: str = ""
    encoding: str = "utf-8"
    task: str = "classification"
    suffix: str = "csv"


def make_table(header, make_row, separator=",", end="\n", rows=ROWS):
    """Return a table as text; `make_row` returns the cells of a row from its index and a random generator."""
    rng = np.random.default_rng(0)
    body = [separator.join(map(str, make_row(i, rng))) for i in range(rows)]
    return end.join([header, *body] if header else body) + end


def pick(rng, *values):
    return values[rng.integers(len(values))]


TABLES = {
    # passengers of a ship: unique names, missing values, commas in quotes
    "titanic": Sample(
        make_table(
            "PassengerId,Survived,Pclass,Name,Sex,Age,Fare,Cabin,Embarked",
            lambda i, r: [
                i + 1,
                i % 2,
                i % 3 + 1,
                f'"Doe, Mr. J{i}"',
                pick(r, "male", "female"),
                "" if i % 7 == 0 else r.integers(1, 80),
                round(r.uniform(5, 90), 4),
                "" if i % 4 else f"C{i}",
                "" if i == 30 else pick(r, "S", "C", "Q"),
            ],
        ),
        "--target Survived --exclude PassengerId,Name,Cabin --impute median",
        "column 'Age' has an empty cell where a number was expected",
    ),
    # census: spaces after commas, ? for unknown values, no header
    "adult": Sample(
        make_table(
            "",
            lambda i, r: [
                f" {x}"
                for x in (
                    r.integers(17, 80),
                    pick(r, "Private", "?", "State-gov"),
                    r.integers(10**4, 10**6),
                    pick(r, "Bachelors", "HS-grad"),
                    pick(r, "<=50K", ">50K"),
                )
            ],
        ),
        "--no-header --target x4",
        "no column 'x4'",
    ),
    "adult with names": Sample(
        make_table(
            "age,workclass,hours.per.week,income",
            lambda i, r: [
                r.integers(17, 80),
                pick(r, "Private", "?"),
                "?" if i % 9 == 4 else r.integers(10, 60),
                pick(r, "<=50K", ">50K"),
            ],
        ),
        "--target income --impute mean",
        "column 'hours.per.week' has '?' where a number was expected",
    ),
    # wine: semicolons and names in quotes
    "wine quality": Sample(
        make_table(
            '"fixed acidity";"volatile acidity";"quality"',
            lambda i, r: [round(r.uniform(5, 9), 1), round(r.uniform(0, 1), 2), r.integers(3, 8)],
            ";",
        ),
        "--target quality",
    ),
    # cars: columns separated by white space, ? for missing values, names in quotes
    "auto-mpg": Sample(
        make_table(
            "",
            lambda i, r: [
                f"{r.uniform(10, 40):.1f}  ",
                r.integers(4, 9),
                "  ?" if i % 8 == 0 else f"{r.uniform(60, 200):.1f}",
                f'   "car {i}"',
            ],
            " ",
        ),
        "--separator whitespace --no-header --target x0 --exclude x3 --impute mean",
        "no separator was found, but white space splits all rows into equal numbers of cells",
        task="regression",
    ),
    "auto-mpg with names": Sample(
        make_table(
            "mpg,cylinders,horsepower,origin,name",
            lambda i, r: [
                round(r.uniform(10, 40), 1),
                pick(r, 4, 6, 8),
                "?" if i % 8 == 0 else r.integers(60, 200),
                pick(r, 1, 2, 3),
                f"car {i}",
            ],
        ),
        "--target mpg --exclude name --categorical origin --impute mean",
        "column 'horsepower' has '?' where a number was expected",
        task="regression",
    ),
    # forests: whole numbers only
    "covertype": Sample(
        make_table(
            "Elevation,Aspect,Soil_Type1,Cover_Type",
            lambda i, r: [r.integers(1800, 3800), r.integers(0, 360), i % 2, i % 7 + 1],
        ),
        "--target Cover_Type",
    ),
    "iris without header": Sample(
        make_table("", lambda i, r: [*np.round(r.uniform(0, 8, 4), 1), f"Iris-{pick(r, 'setosa', 'virginica')}"]),
        "--no-header --target x4",
        "no column 'x4'",
    ),
    # customers of a bank: semicolons, every string in quotes, -1 for "never"
    "bank marketing": Sample(
        make_table(
            '"age";"job";"pdays";"y"',
            lambda i, r: [
                r.integers(18, 90),
                pick(r, '"admin."', '"unknown"', '"services"'),
                pick(r, -1, 90),
                pick(r, '"no"', '"yes"'),
            ],
            ";",
        ),
        "--target y",
    ),
    # air quality: semicolons, decimal commas, -200 for missing values, two empty columns at the end
    "air quality": Sample(
        make_table(
            "Date;Time;CO(GT);T;AH;;",
            lambda i, r: [
                f"{i % 28 + 1:02d}/03/2004",
                f"{i % 24:02d}.00.00",
                "-200" if i % 9 == 5 else f"{r.uniform(0, 5):.1f}".replace(".", ","),
                f"{r.uniform(0, 30):.1f}".replace(".", ","),
                f"{r.uniform(0, 1):.4f}".replace(".", ","),
                "",
                "",
            ],
            ";",
            "\r\n",
        ),
        "--target T --decimal , --missing-value -200 --impute mean --exclude Time --dates Date --date-format %d/%m/%Y",
        "use --decimal ',' to read it as a number",
        task="regression",
    ),
    # penguins: NA for missing numbers and missing strings
    "penguins": Sample(
        make_table(
            "species,island,bill_length_mm,sex,year",
            lambda i, r: [
                pick(r, "Adelie", "Gentoo"),
                pick(r, "Biscoe", "Dream"),
                "NA" if i == 3 else round(r.uniform(30, 60), 1),
                "NA" if i in (3, 8) else pick(r, "male", "female"),
                pick(r, 2007, 2008),
            ],
        ),
        "--target species --impute mean",
        "column 'bill_length_mm' has 'NA' where a number was expected",
    ),
    # a DataFrame written by pandas, with its index and a column of booleans
    "a frame after a split": Sample(
        make_table(
            ",size,smoker,tip",
            lambda i, r: [(i * 37) % 1000, r.integers(1, 7), pick(r, "True", "False"), round(r.uniform(1, 9), 2)],
        ),
        "--target tip",
        task="regression",
    ),
    # customers of a telephone company: a space for missing values, unique names, yes and no
    "telco churn": Sample(
        make_table(
            "customerID,SeniorCitizen,TotalCharges,Contract,Churn",
            lambda i, r: [
                f"{i:04d}-ABCDE",
                i % 2,
                " " if i == 5 else round(r.uniform(20, 8000), 2),
                pick(r, "Month-to-month", "Two year"),
                pick(r, "Yes", "No"),
            ],
        ),
        "--target Churn --exclude customerID --impute median",
        "column 'TotalCharges' has an empty cell where a number was expected",
    ),
    # houses: currency signs, thousands separators in quoted cells, NA as a category
    "house sales": Sample(
        make_table(
            "Id,Alley,LotArea,Grade,Price",
            lambda i, r: [
                i,
                pick(r, "NA", "Pave"),
                f'"{r.integers(1, 20)},{r.integers(100, 999)}"',
                pick(r, "Ex", "Gd"),
                f'"${r.integers(100, 900)},{r.integers(100, 999)}"',
            ],
        ),
        "--target Price --exclude Id --strip $ --thousands ,",
        "the target is text that looks like numbers",
        task="regression",
    ),
    # flats: umlauts in latin-1, semicolons, decimal commas, points as thousands separators, a line with the separator
    "flats": Sample(
        "sep=;\n"
        + make_table(
            "St\xe4dte;Gr\xf6\xdfe;Miete",
            lambda i, r: [pick(r, "K\xf6ln", "M\xfcnchen"), f"{r.integers(20, 200)},5", f"1.{r.integers(100, 999)},50"],
            ";",
            "\r\n",
        ),
        "--target Miete --encoding latin-1 --decimal , --thousands .",
        "for another encoding, such as latin-1 or utf-16, use --encoding (encoding=)",
        encoding="latin-1",
        task="regression",
    ),
    # reviews: tabs, quotes, a byte order mark
    "reviews": Sample(
        "\ufeff"
        + make_table(
            "stars\tverified\thelpful\tlabel",
            lambda i, r: [i % 5 + 1, pick(r, "Y", "N"), r.integers(0, 99), pick(r, '"0"', '"1"')],
            "\t",
        ),
        "--target label",
        suffix="tsv",
    ),
    # bike rides: timestamps, percent signs
    "bike rides": Sample(
        make_table(
            "started,humidity,temp,count",
            lambda i, r: [
                f"2024-01-{i % 28 + 1:02d} {i % 24:02d}:00:00",
                f"{r.integers(20, 99)}%",
                round(r.uniform(-5, 30), 1),
                r.integers(0, 999),
            ],
        ),
        "--target count --dates started --strip %",
        "use --dates to read the column as dates",
        task="regression",
    ),
    # zip codes: leading zeros, rows without a target
    "zip codes": Sample(
        make_table(
            "income,age,zip",
            lambda i, r: [
                r.integers(10**4, 10**5),
                r.integers(18, 90),
                "" if i % 10 == 3 else pick(r, "01001", "02139", "90210"),
            ],
        ),
        "--target zip --drop-missing-target",
        "to leave out such rows, use --drop-missing-target",
    ),
    # sensors: comments above the header, vertical bars as separators, ids that float64 cannot represent exactly
    "sensors": Sample(
        "# sensor export\n# unit: C\n"
        + make_table(
            "id|t1|t2|state",
            lambda i, r: [
                9007199254740992 + i,
                round(r.uniform(0, 9), 2),
                "null" if i == 4 else round(r.uniform(0, 9), 2),
                pick(r, "on", "off"),
            ],
            "|",
        ),
        "--target state --comment # --exclude id --impute mean",
        "",
    ),
    # schools: a letter among numeric grades, a comma in the name of a column
    "schools": Sample(
        make_table(
            '"district, name",grade,score,passed',
            lambda i, r: [pick(r, "North", "South"), pick(r, 1, 2, "K"), r.integers(0, 100), pick(r, "TRUE", "FALSE")],
        ),
        "--target passed --categorical grade",
    ),
    "heart": Sample(
        make_table(
            "age,sex,chol,thal,target",
            lambda i, r: [
                f"{r.integers(30, 80)}.0",
                "1.0",
                "?" if i == 9 else r.integers(120, 400),
                pick(r, "3.0", "6.0", "?"),
                i % 2,
            ],
        ),
        "--target target --impute most_frequent --categorical thal",
        "where a number was expected",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_usable_with_its_options(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPNOTES_BACKEND", raising=False)
    sample = TABLES[name]
    path = f"data.{sample.suffix}"
    (tmp_path / path).write_bytes(sample.text.encode(sample.encoding))
    quick = ["--epochs", "1", "--layers", "4", "--json"]

    def call(*arguments):
        status = main(list(arguments))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    options = sample.options.split()
    if sample.error:
        target = options[options.index("--target") + 1]
        status, out, err = call("train", path, "--target", target, *quick)
        assert (status, out) == (1, "")
        assert sample.error in err
    status, out, err = call("train", path, *options, *quick, "-o", "m")
    assert status == 0, err
    assert json.loads(out)["task"] == sample.task
    drop_option = [option for option in options if option == "--drop-missing-target"]
    status, out, err = call("evaluate", "m", path, "--json", *drop_option)
    assert status == 0, err
    assert json.loads(out)["rows"] == ROWS - (6 if drop_option else 0)
    status, out, err = call("predict", "m", path)
    assert status == 0, err
    assert len(list(csv.DictReader(io.StringIO(out)))) == ROWS
