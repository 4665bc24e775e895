package abi

import "encoding/binary"

// MaxInstances is how many tors there can be.
const MaxInstances = int(DatapathLimitMAX_INSTANCES)

// InstanceOf is which of so many tors a device uses, as device_instance() of bpf/instance.h
// has it: of those that are ready the one that is most its own, or of all while none is.
func InstanceOf(device DatapathDeviceKey, instances int, ready func(int) bool) int {
	if instances <= 1 {
		return 0
	}
	highest := func(counts func(int) bool) (score uint64) {
		for i := range instances {
			if counts(i) {
				score = max(score, instanceScore(device, i))
			}
		}
		return score
	}
	score := highest(ready)
	if score == 0 {
		score = highest(func(int) bool { return true })
	}
	return int(score % uint64(MaxInstances))
}

// instanceScore is instance_score() of bpf/instance.h.
func instanceScore(device DatapathDeviceKey, instance int) uint64 {
	words := binary.NativeEndian.AppendUint64(device.bytes(), uint64(instance))
	words = binary.NativeEndian.AppendUint64(words, 0)
	score := hashWords(words)
	return score - score%uint64(MaxInstances) + uint64(instance)
}
