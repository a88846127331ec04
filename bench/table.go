package main

import (
	"fmt"
	"strings"
)

// row is a line of a report on several contestants. of gives its figure.
type row[F any] struct {
	what, unit, goal string
	of               func(f *F) float64
}

// table writes a line for each row, and returns, of two contestants, the
// second's figures over those of the first.
func table[F any](s *strings.Builder, labels []string, all []*F, rows []row[F]) (bars []bar) {
	fmt.Fprintf(s, "| | goal | %s |\n| --- | --- |%s\n", strings.Join(labels, " | "), strings.Repeat(" --- |", len(all)))
	for _, r := range rows {
		fmt.Fprintf(s, "| %s | %s |", r.what, r.goal)
		for _, f := range all {
			fmt.Fprintf(s, " %s |", strings.TrimSpace(fmt.Sprintf("%.4g %s", r.of(f), r.unit)))
		}
		fmt.Fprintln(s)
		if len(all) == 2 && r.of(all[0]) > 0 && r.unit != "" {
			bars = append(bars, bar{r.what, r.of(all[1]) / r.of(all[0])})
		}
	}
	return bars
}
