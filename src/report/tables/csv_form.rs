//! Tables in CSV, with every digit.

use anyhow::Result;

use super::{Cell, Table};

impl Table {
    /// A header and the rows. A metric's column is followed by the ends of its interval, `_lo` and
    /// `_hi`, and by its spread over seeds, `_sd_over_seeds`, where any row has them; what is not
    /// defined is empty.
    ///
    /// # Errors
    /// There are none but memory's.
    pub fn to_csv(&self) -> Result<Vec<u8>> {
        let any =
            |column: usize, has: fn(&Cell) -> bool| self.rows.iter().any(|row| has(&row[column]));
        let parts: Vec<(bool, bool)> = (0..self.columns.len())
            .map(|column| {
                let interval = any(column, |cell| matches!(cell, Cell::Metric { .. }));
                let spread = any(column, |cell| matches!(cell, Cell::Metric { sd: Some(_), .. }));
                (interval, spread)
            })
            .collect();
        let mut csv = csv::Writer::from_writer(Vec::new());
        let mut header = Vec::new();
        for (column, (interval, spread)) in self.columns.iter().zip(&parts) {
            header.push(column.key.clone());
            if *interval {
                header.extend(["lo", "hi"].map(|end| format!("{}_{end}", column.key)));
            }
            if *spread {
                header.push(format!("{}_sd_over_seeds", column.key));
            }
        }
        csv.write_record(&header)?;
        for row in &self.rows {
            let mut record = Vec::new();
            for (cell, (interval, spread)) in row.iter().zip(&parts) {
                record.push(exact(cell));
                let (ci, sd) = match cell {
                    Cell::Metric { ci, sd, .. } => (*ci, *sd),
                    _ => (None, None),
                };
                if *interval {
                    record.extend([number(ci.map(|ci| ci.lo)), number(ci.map(|ci| ci.hi))]);
                }
                if *spread {
                    record.push(number(sd));
                }
            }
            csv.write_record(&record)?;
        }
        Ok(csv.into_inner().map_err(|error| error.into_error())?)
    }
}

fn exact(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => text.clone(),
        Cell::Count(count) => count.to_string(),
        Cell::Number { value, .. } | Cell::Metric { value, .. } | Cell::P(value) => number(*value),
        Cell::Empty => String::new(),
    }
}

fn number(value: Option<f64>) -> String {
    let value = value.filter(|value| value.is_finite());
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::hostile;

    #[test]
    fn values_are_whole_and_names_read_back() {
        let table = hostile();
        let bytes = table.to_csv().unwrap();
        let mut csv = csv::Reader::from_reader(&bytes[..]);
        let header: Vec<String> = csv.headers().unwrap().iter().map(str::to_string).collect();
        let expected = ["model", "n", "pc", "pc_lo", "pc_hi", "pc_sd_over_seeds", "p", "flops"];
        assert_eq!(header, expected);
        let row = csv.records().next().unwrap().unwrap();
        assert_eq!(&row[0], "<script>alert(\"1\")</script>|`a`_b%$#{}~^\\ 'x'\nnext");
        let numbers: Vec<&str> = row.iter().skip(1).collect();
        assert_eq!(numbers, ["12345", "0.125", "-0.5", "0.25", "0.01", "0.00001", "2500000"]);
    }
}
