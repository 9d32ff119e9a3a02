"""The table of means as plain numbers, for a CSV."""

import pandas as pd

from mosa.base.errors import UserError
from mosa.results.aggregate import Section


def tidy_table(sections: list[Section]) -> pd.DataFrame:
    """Return plain numbers: one row per benchmark, backbone and variant.

    Columns after the identity: {adapter,total}_parameters_{mean,min,max} over tasks, then
    {name}_{mean,sd,n} for every task, `group_` + group, mean_over_tasks and mean_of_groups.
    """
    rows, counts = [], set()
    for section in sections:
        for variant in section.variants:
            row = {
                "benchmark": section.benchmark,
                "backbone": section.backbone,
                "protocol": section.protocol,
                "eval_split": section.eval_split,
                "metric": section.metric.name,
                "variant": variant,
                "method": section.methods.get(variant),
            }
            for column, value in section.parameters.loc[variant].items():
                row[column.replace("_", "_parameters_")] = value
                counts.add(column.replace("_", "_parameters_"))
            row["image_passes"], row["training_flops"] = section.compute.loc[variant]
            for kind, name in section.keys:
                column = {"task": name, "group": f"group_{name}"}.get(kind, name.replace(" ", "_"))
                if f"{column}_mean" in row:
                    raise UserError(
                        f"{kind} {name!r} of {section.benchmark}: the table of means has another column "
                        f"{column}_mean; give the task another name"
                    )
                row[f"{column}_mean"] = section.mean.loc[variant, (kind, name)]
                row[f"{column}_sd"] = section.sd.loc[variant, (kind, name)]
                row[f"{column}_n"] = section.n.loc[variant, (kind, name)]
                counts.add(f"{column}_n")
            rows.append(row)
    table = pd.DataFrame(rows)
    # Whole numbers stay so where another row has none; a mean of counts may have a fraction.
    for column in counts:
        whole = [int(value) if value % 1 == 0 else round(value, 1) for value in table[column]]
        table[column] = pd.Series(whole, dtype=object)
    return table
