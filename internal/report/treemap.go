package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"goldsmith/internal/filelist"
)

// A tree map is a rectangle divided among what has a size, by "Squarified
// Treemaps" (Bruls, Huizing, van Wijk, 2000). Measures are in SVG units, which
// are about pixels.
const (
	mapWidth  = 1200
	mapHeight = 560
	header    = 17 // height of a directory's title
	gap       = 2  // between a directory and what is in it
	minArea   = 90 // what is smaller is put together
	maxDepth  = 7  // of directories in directories
	colours   = 7  // classes of the style sheet, besides neutral
	neutral   = 7
	charWidth = 6.3
)

// treeMap is a map as the page draws it, outer cells first.
type treeMap struct {
	Width, Height int
	Cells         []cell
	total         int64
}

type cell struct {
	X, Y, W, H string
	Class      string
	Title      string
	Label      string // empty where there is no room
	LX, LY     string
}

// node is a directory, a file or a package.
type node struct {
	name, path string
	size       int64
	files      int
	kids       map[string]*node
}

func (n *node) add(parts []string, size int64) {
	n.size += size
	n.files++
	if len(parts) == 0 {
		return
	}
	if n.kids == nil {
		n.kids = map[string]*node{}
	}
	k := n.kids[parts[0]]
	if k == nil {
		k = &node{name: parts[0], path: n.path + "/" + parts[0]}
		n.kids[parts[0]] = k
	}
	k.add(parts[1:], size)
}

// directoryMap is the map of an image by directory. Files of several names
// count once.
func directoryMap(files []filelist.File) *treeMap {
	root := &node{}
	for _, f := range files {
		if f.Size > 0 && f.Link == "" {
			root.add(strings.Split(strings.TrimPrefix(f.Path, "/"), "/"), f.Size)
		}
	}
	m := &treeMap{Width: mapWidth, Height: mapHeight, total: root.size}
	root.join()
	m.divide(root, rect{0, 0, mapWidth, mapHeight}, 0, -1)
	return m
}

// packageSizes are the bytes of the files of each package; "" is of none.
func packageSizes(files []filelist.File) map[string]int64 {
	out := map[string]int64{}
	for _, f := range files {
		if f.Size > 0 && f.Link == "" {
			out[f.Package] += f.Size
		}
	}
	return out
}

// unowned is what the map calls files of no package.
const unowned = "no package"

func packageMap(sizes map[string]int64) *treeMap {
	root := &node{kids: map[string]*node{}}
	for name, size := range sizes {
		root.size += size
		root.kids[name] = &node{name: cmp.Or(name, unowned), path: cmp.Or(name, unowned), size: size, files: 1}
	}
	m := &treeMap{Width: mapWidth, Height: mapHeight, total: root.size}
	m.divide(root, rect{0, 0, mapWidth, mapHeight}, 0, -1)
	for i, c := range m.Cells {
		if strings.HasPrefix(c.Title, unowned) {
			m.Cells[i].Class = "cell warn"
		}
	}
	return m
}

// join makes one of a directory and what is alone in it.
func (n *node) join() {
	for _, k := range n.kids {
		k.join()
		for len(k.kids) == 1 {
			for _, only := range k.kids {
				k.name, k.path, k.kids = k.name+"/"+only.name, only.path, only.kids
			}
		}
	}
}

// divide gives each child of n its part of r. colour is that of everything in
// n, or -1 where each child has its own. What holds more than half of the
// whole is neutral, and its children have colours of their own.
func (m *treeMap) divide(n *node, r rect, depth, colour int) {
	list := n.shown(r.w * r.h)
	for i, box := range squarify(list, r) {
		k, c, within := list[i], colour, colour
		if c < 0 {
			c, within = i%colours, i%colours
			if len(k.kids) > 0 && k.size > m.total/2 {
				c, within = neutral, -1
			}
		}
		inner := rect{box.x + gap, box.y + header, box.w - 2*gap, box.h - header - gap}
		nested := len(k.kids) > 0 && depth+1 < maxDepth && inner.w > 24 && inner.h > 14
		m.Cells = append(m.Cells, newCell(k, box, c, nested))
		if nested {
			m.divide(k, inner, depth+1, within)
		}
	}
}

// shown are the children that are large enough to be seen in that area, the
// largest first, and one for all others.
func (n *node) shown(area float64) []*node {
	var out []*node
	rest := &node{path: n.path + "/…"}
	for _, k := range n.kids {
		if k.size == 0 {
			continue
		}
		if area*float64(k.size)/float64(n.size) < minArea {
			rest.size, rest.files = rest.size+k.size, rest.files+k.files
			continue
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b *node) int {
		return cmp.Or(cmp.Compare(b.size, a.size), strings.Compare(a.path, b.path))
	})
	if rest.size > 0 {
		rest.name = fmt.Sprintf("%d more", rest.files)
		out = append(out, rest)
	}
	return out
}

func newCell(n *node, b rect, colour int, nested bool) cell {
	c := cell{
		X: coordinate(b.x), Y: coordinate(b.y), W: coordinate(b.w), H: coordinate(b.h),
		Class: fmt.Sprintf("cell c%d", colour), Title: n.path + ": " + bytesText(n.size),
		LX: coordinate(b.x + 4), LY: coordinate(b.y + 12.5),
	}
	if n.files > 1 {
		c.Title += fmt.Sprintf(" in %d files", n.files)
	}
	if nested {
		c.Class += " dir"
	}
	room := int((b.w - 7) / charWidth)
	if room < 3 || b.h < 15 {
		return c
	}
	long := n.name + " " + bytesText(n.size)
	switch {
	case len([]rune(long)) <= room:
		c.Label = long
	case len([]rune(n.name)) <= room:
		c.Label = n.name
	default:
		c.Label = string([]rune(n.name)[:room-1]) + "…"
	}
	return c
}

type rect struct{ x, y, w, h float64 }

// squarify divides r among nodes, the largest first, so that the parts are as
// near to squares as rows of them can be.
func squarify(list []*node, r rect) []rect {
	var total float64
	for _, n := range list {
		total += float64(n.size)
	}
	out := make([]rect, 0, len(list))
	scale := r.w * r.h / max(total, 1)
	for len(list) > 0 {
		side := min(r.w, r.h)
		row, area := 1, float64(list[0].size)*scale
		worst := ratio(list[:1], area, side, scale)
		for row < len(list) {
			more := area + float64(list[row].size)*scale
			next := ratio(list[:row+1], more, side, scale)
			if next > worst {
				break
			}
			row, area, worst = row+1, more, next
		}
		depth := area / max(side, 1e-9)
		at := 0.0
		for _, n := range list[:row] {
			length := float64(n.size) * scale / max(depth, 1e-9)
			if r.w >= r.h { // a column at the left
				out = append(out, rect{r.x, r.y + at, depth, length})
			} else { // a row at the top
				out = append(out, rect{r.x + at, r.y, length, depth})
			}
			at += length
		}
		if r.w >= r.h {
			r.x, r.w = r.x+depth, max(r.w-depth, 0)
		} else {
			r.y, r.h = r.y+depth, max(r.h-depth, 0)
		}
		list = list[row:]
	}
	return out
}

// ratio is how far the worst of a row is from a square.
func ratio(row []*node, area, side, scale float64) float64 {
	largest, smallest := float64(row[0].size)*scale, float64(row[len(row)-1].size)*scale
	return max(side*side*largest/(area*area), area*area/(side*side*smallest))
}
