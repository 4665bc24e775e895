package model
import ("testing";"time";"os/exec";"strings")
func TestExp(t *testing.T){
 w:=lay(t)
 w.attach("torbpf_lan",w.lan)
 p:=home(); 
 command(t,`ethtool -K lan0 tx off`)
 hc:=exec.Command("unshare","-n","sleep","1000"); if err:=hc.Start();err!=nil{t.Fatal(err)}
 defer hc.Process.Kill()
 time.Sleep(300*time.Millisecond)
 pid:=itoa(hc.Process.Pid)
 command(t,"ip link set host0 netns "+pid)
 for _,c:=range []string{"ip link set lo up","ip addr add 192.168.1.10/24 dev host0","ip addr add fd00:1::10/64 dev host0 nodad","ip link set host0 up","ip route add default via 192.168.1.1","ip -6 route add default via fd00:1::1"} {
  command(t,"nsenter -t "+pid+" -n "+c)
 }
 run:=func(s string){ st:=time.Now(); out,err:=exec.Command("nsenter","-t",pid,"-n","sh","-c",s).CombinedOutput(); t.Log(s,time.Since(st).Round(time.Millisecond),strings.TrimSpace(string(out)),err)}
 for _,x:=range []bool{false,true}{ 
  if x {command(t,"ethtool -K lan0 tx on")}
 p.GateOpen=true; w.set(p); w.forget()
 run("timeout 3 socat -u - TCP:10.1.2.3:80 </dev/null")
 run("timeout 3 socat -u - TCP6:[fd00:99::1]:80 </dev/null")
 run("(echo a; sleep 0.3; echo b) | timeout 3 socat - UDP:50.0.0.1:443")
 run("(echo a; sleep 0.3; echo b) | timeout 3 socat - UDP6:[2600::1]:443")
 run("timeout 3 ping -c1 -W1 50.0.0.1")
 p.GateOpen=false; w.set(p)
 run("nstat -az | grep -i csum")
 run(`printf '\253\315\001\040\000\001\000\000\000\000\000\000\001a\004test\000\000\001\000\001' | timeout 1 socat -t1 - UDP:192.168.1.1:53 | od -c | head -2`)
 run("nstat -az | grep -i csum")
 }
 t.Log(w.tally())
}
func itoa(i int)string{ return strings.TrimSpace(string([]byte(func()string{b:="";for i>0{b=string(rune('0'+i%10))+b;i/=10};return b}()))) }
