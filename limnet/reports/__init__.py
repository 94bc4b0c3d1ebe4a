"""Results, tables, figures, the ledger of claims and the site of all reports."""
