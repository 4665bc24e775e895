package doctor

import "fmt"

func layers(f *Facts) []Finding {
	if !f.Attached {
		return about("nothing is attached")
	}
	var out []Finding
	for _, p := range f.Status.Problems {
		out = append(out, problem(p, "sudo torbpf attach"))
	}
	return out
}

func alarms(f *Facts) []Finding {
	switch {
	case !f.Attached:
		return about("nothing is attached")
	case f.Status.Stopped == 0:
		return nil
	}
	return []Finding{problem(fmt.Sprintf("%d packets got as far as the last guards, which stopped them: something bypasses the tc programs or nftables", f.Status.Stopped), "torbpf check")}
}
