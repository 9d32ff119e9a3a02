"""Tables and plots: pure functions of the DataFrame of records that `mosa.records` returns.

`aggregate` computes, `tables` and `plots` show, `style` fixes colours and order. Nothing here
imports torch, and only `plots` imports matplotlib.
"""
